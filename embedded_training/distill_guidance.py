"""Distils classifier-free guidance into the embedded FLUX, as FLUX.1-dev has it: one call a step, a guidance input.

    python -m embedded_training.distill_guidance --minutes 15

The student starts as the base and learns v(empty) + w (v(prompt) - v(empty)) for w drawn from 1 to 6. The text
encoders stay as they are. Resumable, as train_flux.py.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from transformers import CLIPTextModel, T5EncoderModel

from .common import AveragedModules, Progress, load_state, save_state
from .flow import image_ids, noise_levels, pack, velocity
from .train_flux import BATCH, Corpus, Optimizers, encode_text

GUIDANCE = (1.0, 6.0)
SMALL_SHARE = 0.4


def guided_target(
    teacher: torch.nn.Module,
    tokens: torch.Tensor,
    sigma: torch.Tensor,
    text: torch.Tensor,
    pooled: torch.Tensor,
    empty: tuple[torch.Tensor, torch.Tensor],
    ids: torch.Tensor,
    weight: torch.Tensor,
) -> torch.Tensor:
    count = len(tokens)
    both = velocity(
        teacher,
        torch.cat([tokens, tokens]),
        torch.cat([sigma, sigma]),
        torch.cat([text, empty[0].expand(count, -1, -1)]),
        torch.cat([pooled, empty[1].expand(count, -1)]),
        ids,
        torch.ones(2 * count),
    ).float()
    return torch.lerp(both[count:], both[:count], weight[:, None, None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/embedded"))
    parser.add_argument("--chunks", type=int, default=96)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--rate", type=float, default=5e-4)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    base = arguments.run / "base"
    vae = AutoencoderKL.from_pretrained(arguments.run / "vae").eval()
    corpus = Corpus(arguments.run / "data", arguments.chunks, vae)
    teacher = FluxTransformer2DModel.from_pretrained(base / "transformer").requires_grad_(False).eval()
    encoders = {
        "text_encoder": CLIPTextModel.from_pretrained(base / "text_encoder").eval(),
        "text_encoder_2": T5EncoderModel.from_pretrained(base / "text_encoder_2").eval(),
    }
    student = {"transformer": copy.deepcopy(teacher).requires_grad_(True).train()}
    averages = {"transformer": copy.deepcopy(teacher)}
    optimizers = Optimizers(student, arguments.rate)
    named = student | {"ema": averages["transformer"]}
    checkpoint = arguments.run / "guidance-checkpoint"
    progress = load_state(checkpoint, named, optimizers.parts) or Progress()
    average = AveragedModules(averages, 0.998)
    torch.manual_seed(progress.step + 1)
    log = (arguments.run / "guidance-log.jsonl").open("a")
    with torch.no_grad():
        empty = encode_text(encoders, corpus.empty[None])

    started = saved = time.monotonic()
    before, running = progress.seconds, {}
    while progress.seconds < arguments.minutes * 60:
        done = progress.seconds / (arguments.minutes * 60)
        size = "small" if torch.rand(()) < SMALL_SHARE else "full"
        latents, ids = corpus.batch(size, BATCH[size], drop=0.0)
        sigma = noise_levels(len(latents))
        noise = torch.randn_like(latents)
        tokens = pack(torch.lerp(latents, noise, sigma[:, None, None, None]))
        weight = torch.empty(len(latents)).uniform_(*GUIDANCE)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                text, pooled = encode_text(encoders, ids)
                target = guided_target(
                    teacher, tokens, sigma, text, pooled, empty, image_ids(latents), weight
                )
            guess = velocity(student["transformer"], tokens, sigma, text, pooled, image_ids(latents), weight)
            loss = torch.nn.functional.mse_loss(guess.float(), target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student["transformer"].parameters(), 1.0)
        optimizers.step(min(1.0, (progress.step + 1) / 50) * min(1.0, 2 * (1 - done)) + 1e-3)
        progress.step += 1
        progress.seconds = before + time.monotonic() - started
        average.update(student, progress.step)
        running[size] = 0.98 * running.get(size, loss.item()) + 0.02 * loss.item()
        if progress.step % 20 == 0:
            losses = {name: round(value, 4) for name, value in running.items()}
            print(
                json.dumps({"step": progress.step, "seconds": round(progress.seconds), "loss": losses}),
                file=log,
                flush=True,
            )
        if time.monotonic() - saved > 180:
            save_state(checkpoint, named, optimizers.parts, progress)
            saved = time.monotonic()
    save_state(checkpoint, named, optimizers.parts, progress)
    averages["transformer"].save_pretrained(arguments.run / "guided" / "transformer")


if __name__ == "__main__":
    main()
