"""Teaches coarse calls of the embedded FLUX at high noise levels: one student a patch size, the low band alone.

    python -m embedded_training.train_early_adapter label --base BASE --minutes 60 &
    python -m embedded_training.train_early_adapter learn --base BASE --minutes 60 --scale 2

At high noise levels nothing is known of the detail inside a merged patch, so a coarse call has to match the base's
velocity averaged over s x s latent pixels, its low band. A noise-matched coarse call on grid positions is the base's
own call on a smaller latent. So a student is a copy of the base that sees the smaller latent, and all its matrices
learn. ``adapter_of`` turns what they learned into an adapter: matrices of lower rank by singular values.

The states are the base's own: chains that start from noise and take Euler steps of random length. The teacher labels
each state once, in a process of its own; a student sees it several times. Resumable: a second call of ``learn`` goes
on until --minutes are done in all.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ddit_ext import embedded
from ddit_ext.coarse.noise_match import noise_match
from ddit_ext.embedded import scenes

from . import architecture
from .common import AveragedModules, Progress, load_state, save_state
from .flow import image_ids, pack, velocity
from .loop import LONGEST_STEP, Optimizers
from .train_flux_large import LARGE_SHIFT

SIDE = 64  # latent pixels of a picture of 128 pixels
LOWEST = {2: 0.66, 4: 0.75}  # noise levels below are not trained
GUIDANCE = 3.5  # the pipeline's own; half of the chains have another
GUIDANCE_RANGE = (2.0, 5.0)
CHAINS = 8
BATCH = {2: 16, 4: 32}
KEPT = 12_000  # states; older ones make room
PER_FILE = 4
VALIDATION = 96


def unpack(tokens: Tensor, rows: int) -> Tensor:
    """FLUX's tokens ``[B, rows², C * 4]`` -> latents ``[B, C, 2 rows, 2 rows]``."""
    channels = tokens.shape[-1] // 4
    cells = tokens.unflatten(1, (rows, rows)).unflatten(-1, (channels, 2, 2))
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), channels, 2 * rows, 2 * rows)


@dataclass
class States:
    """Labelled states of the base's runs, at the finest coarse band: float16 tensors, oldest first."""

    low: Tensor  # [n, C, 32, 32]: 2x2 means of the noisy latent
    target: Tensor  # [n, C, 32, 32]: 2x2 means of the base's velocity
    sigma: Tensor  # [n]
    guidance: Tensor  # [n]
    ids: Tensor  # [n, 12] tokens of the prompt

    def __len__(self) -> int:
        return len(self.sigma)

    def joined(self, other: States) -> States:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return States(*(torch.cat(pair)[-KEPT:] for pair in pairs))

    def at(self, index: Tensor) -> States:
        return States(*(tensor[index] for tensor in vars(self).values()))


class Teacher:
    """The base, and chains of states on the way from noise to pictures."""

    def __init__(self, transformer: FluxTransformer2DModel, pipe, seed: int) -> None:
        self.transformer = transformer.eval().requires_grad_(False)
        self.pipe = pipe
        self.seed(seed)
        self.tokenizer = architecture.tokenizer()
        self.grid = image_ids(torch.empty(1, 1, SIDE, SIDE))
        self.latents = torch.empty(CHAINS, architecture.LATENT_CHANNELS, SIDE, SIDE)
        self.sigma = torch.zeros(CHAINS)
        self.guidance = torch.zeros(CHAINS)
        self.ids = torch.zeros(CHAINS, architecture.TEXT_LENGTH, dtype=torch.long)

    def seed(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.rng = np.random.default_rng(seed)

    def encode(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return self.pipe.text_encoder_2(ids)[0], self.pipe.text_encoder(ids).pooler_output

    def _uniform(self, count: int) -> Tensor:
        return torch.rand(count, generator=self.generator)

    def _restart(self, chosen: Tensor) -> None:
        count = int(chosen.sum())
        if not count:
            return
        prompts = [scenes.random_scene(self.rng).prompt for _ in range(count)]
        self.ids[chosen] = self.tokenizer(
            prompts,
            padding="max_length",
            max_length=architecture.TEXT_LENGTH,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        self.latents[chosen] = torch.randn(self.latents[chosen].shape, generator=self.generator)
        self.sigma[chosen] = 1.0
        low, high = GUIDANCE_RANGE
        drawn = low + (high - low) * self._uniform(count)
        self.guidance[chosen] = torch.where(self._uniform(count) < 0.5, GUIDANCE, drawn)

    @torch.no_grad()
    def states(self) -> States:
        """One call of the base on every chain, and a step of each."""
        self._restart(self.sigma < min(LOWEST.values()))
        text, pooled = self.encode(self.ids)
        with torch.autocast("cpu", torch.bfloat16):
            guess = velocity(
                self.transformer, pack(self.latents), self.sigma, text, pooled, self.grid, self.guidance
            )
        full = unpack(guess.float(), SIDE // 2)
        made = States(
            torch.nn.functional.avg_pool2d(self.latents, 2).half(),
            torch.nn.functional.avg_pool2d(full, 2).half(),
            self.sigma.clone(),
            self.guidance.clone(),
            self.ids.clone(),
        )
        self.advance(full, LARGE_SHIFT)
        return made

    def advance(self, full: Tensor, shift: float) -> None:
        """Every chain by one to four steps of the pipeline's 28, in the time before the sampler's shift."""
        before = self.sigma / (shift - (shift - 1) * self.sigma)
        after = (before - (0.6 + 3.4 * self._uniform(CHAINS)) / 28).clamp(min=0)
        after = shift * after / (1 + (shift - 1) * after)
        self.latents += (after - self.sigma)[:, None, None, None] * full
        self.sigma = after


def low_velocity(student: FluxTransformer2DModel, scale: int, states: States, text: Tensor, pooled: Tensor):
    """The low band that a coarse call at ``scale`` gives, and the base's: ``[B, C, H/s, W/s]`` each."""
    matched = noise_match(states.sigma, scale)
    low, target = states.low.float(), states.target.float()
    if scale > 2:
        low, target = (torch.nn.functional.avg_pool2d(x, scale // 2) for x in (low, target))
    wide = (slice(None), None, None, None)
    tokens = pack(matched.input_scale[wide] * low)
    guess = velocity(student, tokens, matched.timestep, text, pooled, image_ids(low), states.guidance)
    mine = matched.alpha[wide] * unpack(guess.float(), low.shape[-1] // 2) + matched.beta[wide] * low
    return mine, target


def trainable(student: FluxTransformer2DModel) -> nn.Module:
    """All matrices learn, and the biases that an adapter owns; norms and other biases stay the base's."""
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(parameter.ndim == 2 or name in ("x_embedder.bias", "proj_out.bias"))
    return student


class Learning(nn.Module):
    """A view of a module whose named parameters are those that learn."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._held = (module,)

    def named_parameters(self, *args, **kwargs):
        return ((name, p) for name, p in self._held[0].named_parameters() if p.requires_grad)


@torch.no_grad()
def errors(student: nn.Module, scale: int, states: States, teacher: Teacher) -> dict[str, float]:
    """Squared error of the low band over the mean square of the velocity, by ranges of the noise level.

    The base's velocity has the noise's variance in its high band, so its mean square is the low band's plus that of
    the s x s detail, close to 1 - 1/s² at high noise levels.
    """
    found = {}
    edges = (1.01, 0.98, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.66)
    for high, low in zip(edges, edges[1:], strict=False):
        inside = ((states.sigma < high) & (states.sigma >= low)).nonzero()[:, 0]
        if low < LOWEST[scale] - 1e-6 or not len(inside):
            continue
        part = states.at(inside)
        mine, target = low_velocity(student, scale, part, *teacher.encode(part.ids))
        power = target.square().mean() + (1 - 1 / scale**2)
        found[f"{low:g}"] = round(((mine - target).square().mean() / power).item(), 5)
    return found


def label(teacher: Teacher, run: Path, minutes: float) -> None:
    """Writes states in files of CHAINS * PER_FILE, the ones to validate with first."""
    folder = run / "states"
    folder.mkdir(parents=True, exist_ok=True)
    validation = run / "validation.safetensors"
    if not validation.exists():
        held_out = Teacher(teacher.transformer, teacher.pipe, seed=7)
        made = held_out.states()
        while len(made) < VALIDATION:
            made = made.joined(held_out.states())
        save_file(vars(made), validation)
    number = len(list(folder.glob("*.safetensors")))
    teacher.seed(1000 + number)
    ends = time.monotonic() + minutes * 60
    while time.monotonic() < ends:
        made = teacher.states()
        for _ in range(PER_FILE - 1):
            made = made.joined(teacher.states())
        fresh = folder / f"{number:06d}.new"
        save_file(vars(made), fresh)
        fresh.rename(fresh.with_suffix(".safetensors"))
        number += 1


def learn(teacher: Teacher, run: Path, scale: int, minutes: float, rate: float, start: Path | None) -> None:
    """Trains the student of one scale on the states that are there, and on new ones as they come."""
    folder = run / f"student-{scale}"
    folder.mkdir(parents=True, exist_ok=True)
    while not (run / "validation.safetensors").exists() or not list((run / "states").glob("*.safetensors")):
        time.sleep(2)
    validation = States(**load_file(run / "validation.safetensors"))
    student = trainable(copy.deepcopy(teacher.transformer))
    average = AveragedModules({"student": copy.deepcopy(teacher.transformer)}, 0.99)
    averaged = average.averages["student"]
    parameters = [p for p in student.parameters() if p.requires_grad]
    optimizers = Optimizers({"student": Learning(student)}, rate, "transformer_blocks")
    named = {"student": student, "average": averaged}
    progress = load_state(folder / "checkpoint", named, optimizers.parts)
    if progress is None:
        progress = Progress()
        if start is not None:
            student.load_state_dict(load_file(start))
            averaged.load_state_dict(load_file(start))
    torch.manual_seed(progress.step)
    states, read = None, set()
    loss_so_far = None

    def report() -> None:
        line = {
            "step": progress.step,
            "seconds": round(progress.seconds),
            "states": 0 if states is None else len(states),
            "loss": loss_so_far,
            "error": errors(averaged, scale, validation, teacher),
        }
        with (folder / "log.jsonl").open("a") as log:
            print(json.dumps(line), file=log)
        print(scale, json.dumps(line), flush=True)

    report()
    began = saved = time.monotonic()
    while progress.seconds < minutes * 60:
        for file in sorted((run / "states").glob("*.safetensors")):
            if file.name not in read:
                read.add(file.name)
                new = States(**load_file(file))
                states = new if states is None else states.joined(new)
        usable = (states.sigma >= LOWEST[scale]).nonzero()[:, 0]
        batch = states.at(usable[torch.randint(len(usable), (BATCH[scale],))])
        text, pooled = teacher.encode(batch.ids)
        with torch.autocast("cpu", torch.bfloat16):
            mine, target = low_velocity(student, scale, batch, text, pooled)
        loss = (mine - target).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 0.3)
        done = progress.seconds / (minutes * 60)
        optimizers.step(min(1.0, (progress.step + 1) / 20) * min(1.0, 1.6 * (1 - done)) + 1e-3)
        average.update({"student": student}, progress.step)
        progress.step += 1
        now = time.monotonic()
        progress.seconds += min(now - began, LONGEST_STEP)
        began = now
        loss_so_far = loss.item() if loss_so_far is None else 0.96 * loss_so_far + 0.04 * loss.item()
        if progress.step % 50 == 0:
            report()
        if time.monotonic() - saved > 150:
            save_state(folder / "checkpoint", named, optimizers.parts, progress)
            saved = time.monotonic()
    report()
    save_state(folder / "checkpoint", named, optimizers.parts, progress)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("label", "learn"))
    parser.add_argument("--run", type=Path, default=Path("runs/embedded-large/early"))
    parser.add_argument("--base", type=Path, required=True, help="a safetensors file of the transformer")
    parser.add_argument("--scale", type=int, choices=tuple(LOWEST), default=2)
    parser.add_argument("--start", type=Path, default=None, help="weights of a student to go on from")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=5e-4)
    arguments = parser.parse_args()

    pipe = embedded.load("flux").pipeline
    base = pipe.transformer
    base.load_state_dict({k: v.float() for k, v in load_file(arguments.base).items()})
    for encoder in (pipe.text_encoder, pipe.text_encoder_2):
        encoder.requires_grad_(False).eval()
    teacher = Teacher(base, pipe, seed=0)
    if arguments.what == "label":
        label(teacher, arguments.run, arguments.minutes)
    else:
        learn(teacher, arguments.run, arguments.scale, arguments.minutes, arguments.rate, arguments.start)


if __name__ == "__main__":
    main()
