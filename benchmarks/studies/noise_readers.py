"""Can a coarse call learn to read the noise inside its patches? Students with one thing to read each, trained alike.

    python benchmarks/studies/noise_readers.py --steps 200 --out benchmarks/studies/results/noise_readers.json

A student is a copy of the base on the noise-matched smaller latent, as in ``embedded_training.train_early_adapter``, at
scale 2 of the embedded FLUX with 256 tokens. To its image tokens a linear layer, zero at the start, adds what it reads
of the four base tokens of a coarse patch:

- nothing: the student knows the means of patches alone;
- pixels: all of the patch's latent pixels, through a perceptron;
- after block k: tokens of the base's own call, so k blocks of every coarse call would run at full resolution;
- first call: tokens after the last block of the run's first call, at noise level 1, which would be full.

Printed is the squared error of the low band over the mean square of the velocity, on held-out states.
"""

from __future__ import annotations

import argparse
import copy
from contextlib import ExitStack
from datetime import date
from pathlib import Path

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
import torch
from _timing import write_json
from noise_by_depth import side_by_side
from torch import Tensor, nn

from ddit_ext import embedded
from embedded_training import train_early_adapter as early
from embedded_training.flow import SHIFT, image_ids, pack, velocity
from embedded_training.loop import Optimizers

SCALE, SIDE, BATCH = 2, 32, 32
EDGES = (1.01, 0.98, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.66)
WIDTH = 768  # of the perceptron that reads pixels
Batch = dict[str, Tensor]


class Chains(early.Teacher):
    """States of the base's runs with tokens of its blocks."""

    def __init__(self, model: embedded.Embedded, seed: int) -> None:
        super().__init__(model.pipeline.transformer, model.pipeline, seed)
        self.grid = image_ids(torch.empty(1, 1, SIDE, SIDE))
        self.latents = torch.empty(early.CHAINS, self.latents.shape[1], SIDE, SIDE)
        transformer = self.transformer
        self.blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
        self.start = torch.empty(0)  # tokens after the last block of each chain's first call

    @torch.no_grad()
    def step(self, kept: tuple[int, ...]) -> Batch:
        """One call of the base on every chain, and a step of each; tokens after the blocks ``kept``."""
        self._restart(self.sigma < early.LOWEST[SCALE])
        seen: Batch = {}
        with ExitStack() as hooks:
            for number in {*kept, len(self.blocks)}:

                def keep(module, inputs, output, number=number):
                    seen[f"after block {number}"] = output[1].half()

                hooks.callback(self.blocks[number - 1].register_forward_hook(keep).remove)
            text, pooled = self.encode(self.ids)
            full = velocity(
                self.transformer, pack(self.latents), self.sigma, text, pooled, self.grid, self.guidance
            )
        full = early.unpack(full, SIDE // 2)
        last = seen.pop(f"after block {len(self.blocks)}")
        fresh = (self.sigma == 1)[:, None, None]
        self.start = torch.where(fresh, last, self.start if len(self.start) else last)
        state = {
            "latents": self.latents.half(),
            "target": nn.functional.avg_pool2d(full, SCALE).half(),
            "sigma": self.sigma.clone(),
            "guidance": self.guidance.clone(),
            "ids": self.ids.clone(),
            "first call": self.start.clone(),
        }
        self.advance(full, SHIFT)
        return state | seen

    def collect(self, count: int, kept: tuple[int, ...]) -> Batch:
        steps = [self.step(kept) for _ in range(count // early.CHAINS)]
        return {name: torch.cat([step[name] for step in steps]) for name in steps[0]}


class Student(nn.Module):
    """A copy of the base that sees the smaller latent, and reads what ``source`` names."""

    def __init__(self, base: nn.Module, source: str) -> None:
        super().__init__()
        self.source = source
        self.model = early.trainable(copy.deepcopy(base))
        width = self.model.x_embedder.out_features
        self.reader: nn.Module | None = None
        if source == "pixels":
            inside = self.model.config.in_channels * SCALE**2
            self.reader = nn.Sequential(nn.Linear(inside, WIDTH), nn.GELU(), nn.Linear(WIDTH, width))
        elif source != "nothing":
            self.reader = nn.Sequential(nn.Linear(width * SCALE**2, width))
        if self.reader is not None:
            nn.init.zeros_(self.reader[-1].weight)
            nn.init.zeros_(self.reader[-1].bias)

    def read(self, batch: Batch) -> Tensor:
        tokens = pack(batch["latents"].float()) if self.source == "pixels" else batch[self.source].float()
        if self.source != "pixels":
            tokens = nn.functional.layer_norm(tokens, tokens.shape[-1:])
        assert self.reader is not None
        return self.reader(side_by_side(tokens, SIDE // 2, SCALE))

    def forward(self, batch: Batch, text: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """The low band that the coarse call gives, and the base's."""
        states = early.States(
            nn.functional.avg_pool2d(batch["latents"].float(), SCALE),
            *(batch[name] for name in ("target", "sigma", "guidance", "ids")),
        )
        with ExitStack() as hooks:
            if self.reader is not None:
                added = self.read(batch)
                hooks.callback(
                    self.model.x_embedder.register_forward_hook(lambda m, i, output: output + added).remove
                )
            return early.low_velocity(self.model, SCALE, states, text, pooled)


@torch.no_grad()
def errors(student: Student, held_out: Batch, teacher: Chains) -> dict[str, float]:
    mine, target = student(held_out, *teacher.encode(held_out["ids"]))
    found = {}
    for high, low in zip(EDGES, EDGES[1:], strict=False):
        inside = (held_out["sigma"] < high) & (held_out["sigma"] >= low)
        power = target[inside].square().mean() + 1 - 1 / SCALE**2
        found[f"{low:g}"] = ((mine - target)[inside].square().mean() / power).item()
    return found


def trained(teacher: Chains, source: str, states: Batch, steps: int, rate: float) -> Student:
    """A student after so many steps of BATCH states; all sources see the same states in the same order."""
    student = Student(teacher.transformer, source)
    parameters = [p for p in student.parameters() if p.requires_grad]
    optimizers = Optimizers({"student": early.Learning(student)}, rate, "transformer_blocks")
    needed = {"latents", "target", "sigma", "guidance", "ids", source} & set(states)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        chosen = torch.randint(len(states["sigma"]), (BATCH,), generator=generator)
        batch = {name: states[name][chosen] for name in needed}
        mine, target = student(batch, *teacher.encode(batch["ids"]))
        (mine - target).square().mean().backward()
        nn.utils.clip_grad_norm_(parameters, 0.3)
        optimizers.step(min(1.0, (step + 1) / 20, 1.6 * (1 - step / steps)) + 1e-3)
    return student.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--states", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 2, 4], help="of six")
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    model, kept = embedded.load("flux"), tuple(arguments.blocks)
    for encoder in (model.pipeline.text_encoder, model.pipeline.text_encoder_2):
        encoder.requires_grad_(False).eval()
    held_out = Chains(model, 7).collect(256, kept)
    teacher = Chains(model, 1000)
    states = teacher.collect(arguments.states, kept)
    print(f"| reads | {' | '.join(f'σ ≥ {low:g}' for low in EDGES[1:])} |")
    print("|---" * len(EDGES) + "|")
    found = {}
    for source in ("nothing", "pixels", *(f"after block {number}" for number in kept), "first call"):
        student = trained(teacher, source, states, arguments.steps, arguments.rate)
        found[source] = errors(student, held_out, teacher)
        print(f"| {source} | {' | '.join(f'{value:.3f}' for value in found[source].values())} |", flush=True)
    if arguments.out:
        settings = {"states": arguments.states, "steps": arguments.steps, "batch": BATCH, "scale": SCALE}
        versions = {"torch": torch.__version__, "date": date.today().isoformat()}
        write_json(arguments.out, settings | versions | {"error": found})


if __name__ == "__main__":
    main()
