"""Carries the embedded FLUX on at 128 pixels, where a picture has 1024 tokens; small pictures are mixed in.

    python -m embedded_training.train_flux_large --minutes 60
    python -m embedded_training.train_flux_large --minutes 9 --device cuda --batch 96 --scenes 65536 --workers 16

Only the transformer learns. The autoencoder and the text encoders are the shipped ones. Guidance is distilled in as
in ``train_flux``. Resumable: a second call goes on until --minutes of training are done in all.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file

from ddit_ext import embedded
from ddit_ext.embedded import scenes

from . import architecture
from .data import to_signal
from .flow import SHIFT
from .loop import Modules, train
from .train_flux import CAPTION_DROP, GUIDED_FROM, flow_loss

SIDE = 128
LARGE_SHIFT = float(np.exp(0.5 + (1.15 - 0.5) * (1024 - 256) / (4096 - 256)))  # the sampler's, at 1024 tokens
SMALL_SHARE = 0.1  # of the batches
SMALL_TO_LARGE = 4  # as many small pictures take the time of one large one
CHUNK = 64
SEED = 12_345


class LargeCorpus:
    """Latents of scenes of 128 pixels, drawn and encoded once, with their token ids."""

    def __init__(self, folder: Path, count: int, vae: AutoencoderKL, device: str, workers: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        latents, prompts = folder / f"latents-{SIDE}-{count}.npy", folder / f"prompts-{SIDE}-{count}.json"
        if not (latents.exists() and prompts.exists()):
            self._draw(latents, prompts, count, vae, device, workers)
        self.latents = torch.from_numpy(np.load(latents)).to(device)  # float16 [n, 4, 64, 64]
        self.prompts: list[str] = json.loads(prompts.read_text())
        tokens = architecture.tokenizer()(
            self.prompts,
            padding="max_length",
            max_length=architecture.TEXT_LENGTH,
            truncation=True,
            return_tensors="pt",
        )
        self.ids = tokens.input_ids.to(device)
        self.empty = torch.tensor([architecture.END] + [0] * (architecture.TEXT_LENGTH - 1))

    @torch.no_grad()
    def _draw(
        self, latents: Path, prompts: Path, count: int, vae: AutoencoderKL, device: str, workers: int
    ) -> None:
        rng = np.random.default_rng(SEED)
        drawn = [scenes.random_scene(rng) for _ in range(count)]
        parts, chunks = [], [drawn[start : start + CHUNK] for start in range(0, count, CHUNK)]
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            for pictures in pool.map(_rendered, chunks):
                mode = vae.encode(to_signal(pictures).to(device)).latent_dist.mode()
                parts.append(((mode - vae.config.shift_factor) * vae.config.scaling_factor).half().cpu())
        np.save(latents, torch.cat(parts).numpy())
        prompts.write_text(json.dumps([scene.prompt for scene in drawn]))

    def batch(self, size: str, count: int, drop: float = CAPTION_DROP) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents ``[count, 4, 64, 64]``, of small ones ``[count, 4, 32, 32]``, and ids ``[count, 12]``, some of them empty."""
        chosen = torch.randint(len(self.ids), (count,))
        latents, ids = self.latents[chosen].float(), self.ids[chosen].clone()
        if size == "small":
            latents = torch.nn.functional.avg_pool2d(latents, 2)  # close to the latents of the halved picture
        ids[torch.rand(len(ids)) < drop] = self.empty
        return latents, ids


def _rendered(drawn: list[scenes.Scene]) -> np.ndarray:
    return np.stack([scenes.render(scene, SIDE) for scene in drawn])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/embedded-large"))
    parser.add_argument(
        "--start", type=Path, default=None, help="weights to go on from, in place of the shipped"
    )
    parser.add_argument("--scenes", type=int, default=8192)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cpu", help="a GPU was not tried")
    parser.add_argument("--batch", type=int, default=6, help="large pictures a step")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw scenes")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    device = arguments.device
    pipe = embedded.load("flux").pipeline.to(device)
    torch.set_default_device(device)
    corpus = LargeCorpus(arguments.run / "data", arguments.scenes, pipe.vae, device, arguments.workers)
    transformer = pipe.transformer.train().requires_grad_(True)
    if arguments.start:
        transformer.load_state_dict({k: v.float() for k, v in load_file(arguments.start).items()})
    if arguments.compile:
        transformer.compile(dynamic=False)
    encoders = {
        "text_encoder": pipe.text_encoder.requires_grad_(False).eval(),
        "text_encoder_2": pipe.text_encoder_2.requires_grad_(False).eval(),
    }

    def loss_of(done: float, modules: Modules, averages: Modules) -> tuple[str, torch.Tensor]:
        size = "small" if torch.rand(()) < SMALL_SHARE else "large"
        count = arguments.batch * (SMALL_TO_LARGE if size == "small" else 1)
        latents, ids = corpus.batch(size, count)
        shift = SHIFT if size == "small" else LARGE_SHIFT
        with torch.autocast(device, torch.bfloat16):  # at 1024 tokens it takes a quarter off a step
            guided = {"averages": averages | encoders, "empty": corpus.empty} if done > GUIDED_FROM else {}
            loss = flow_loss(modules | encoders, latents, ids, shift=shift, **guided)
        return size, loss

    train(
        {"transformer": transformer},
        loss_of,
        arguments.run,
        "flux",
        arguments.minutes,
        arguments.rate,
        "transformer_blocks",
        warmup=30,
        decay=0.998,
    )


if __name__ == "__main__":
    main()
