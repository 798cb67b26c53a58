"""Trains the embedded Wan's autoencoder: clips of 9 frames <-> latents of 12 channels, 3 frames.

    python -m embedded_training.wan.train_autoencoder --minutes 25

Resumable: a second call goes on from the last checkpoint under --run until --minutes of training are done in all.
With --decoder-only the encoder stays as it is, so that a base model trained on its latents still fits.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan

from ddit_ext.embedded.clips import CLIP_SIZE, FRAMES

from ..common import Progress, load_state, save_state
from ..data import draw_clips, load_or_draw, to_signal
from . import architecture

KL_WEIGHT = 1e-4
CROP = CLIP_SIZE // 2
WHOLE_FROM = 0.85  # share of the time after which whole clips are seen: the middle attends over a whole frame
POOLED_SHARE = 0.25  # of the batches: clips at half their size, which the base model is first trained on
NOISE_SHARE = 0.5  # of a batch has disturbed latents: the decoder learns to forgive a sampler's errors


def sample(clips: np.ndarray, rng: np.random.Generator, count: int, whole: bool) -> torch.Tensor:
    """Crops of the first or of all frames, pooled clips, or whole ones: float32 ``[count, 3, F, H, W]``."""
    index = np.sort(rng.choice(len(clips), 1 if whole else count, replace=False))
    if whole:
        return to_signal(clips[index])
    if rng.random() < POOLED_SHARE:
        return F.avg_pool3d(to_signal(clips[index]), (1, 2, 2))
    top, left = rng.integers(0, CLIP_SIZE - CROP + 1, 2)
    start = int(rng.integers(0, 5))
    frames = slice(start, start + 5) if rng.random() < 0.5 else slice(0, FRAMES)
    return to_signal(clips[index, frames, top : top + CROP, left : left + CROP])


def loss_of(vae: AutoencoderKLWan, pictures: torch.Tensor) -> torch.Tensor:
    posterior = vae.encode(pictures).latent_dist
    latents = posterior.sample()
    noise = 0.1 * latents.detach().std() * torch.rand(len(latents), 1, 1, 1, 1) * torch.randn_like(latents)
    disturbed = latents + noise * (torch.rand(len(latents), 1, 1, 1, 1) < NOISE_SHARE)
    rebuilt = vae.decode(disturbed).sample.float()
    edges = sum(F.l1_loss(rebuilt.diff(dim=axis), pictures.diff(dim=axis)) for axis in (2, 3, 4))
    spread = posterior.kl().sum() / latents.numel()
    return F.l1_loss(rebuilt, pictures) + F.mse_loss(rebuilt, pictures) + edges + KL_WEIGHT * spread


@torch.no_grad()
def standardise(vae: AutoencoderKLWan, pictures: torch.Tensor) -> None:
    """Writes the latents' mean and deviation, channel by channel, into the config that pipelines read."""
    latents = torch.cat([vae.encode(part).latent_dist.mode() for part in pictures.split(4)])
    deviations, means = torch.std_mean(latents, dim=(0, 2, 3, 4))
    vae.register_to_config(latents_mean=means.tolist(), latents_std=deviations.tolist())


@torch.no_grad()
def psnr(vae: AutoencoderKLWan, pictures: torch.Tensor) -> float:
    parts = [vae.decode(vae.encode(part).latent_dist.mode()).sample for part in pictures.split(4)]
    return 10 * torch.log10(4 / F.mse_loss(torch.cat(parts), pictures)).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/embedded/wan"))
    parser.add_argument("--clips", type=Path, default=Path("runs/embedded/clips"))
    parser.add_argument("--chunks", type=int, default=160)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--decoder-only", action="store_true")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    clips, _ = load_or_draw(arguments.clips, arguments.chunks, draw=draw_clips)
    vae = architecture.autoencoder()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=arguments.rate, betas=(0.9, 0.95), weight_decay=0.0)
    checkpoint = arguments.run / "vae-checkpoint"
    progress = load_state(checkpoint, {"model": vae}, (optimizer,)) or Progress()
    if arguments.decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    rng = np.random.default_rng(progress.step)
    torch.manual_seed(progress.step)
    started = last = time.monotonic()
    first = before = progress.seconds
    while progress.seconds < arguments.minutes * 60:
        # A call that goes on falls again from its own start.
        done = (progress.seconds - first) / (arguments.minutes * 60 - first)
        for group in optimizer.param_groups:
            group["lr"] = arguments.rate * min(1.0, (progress.step + 1) / 100) * (1 - done) + 1e-5
        batch = sample(clips, rng, arguments.batch, whole=done > WHOLE_FROM)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(vae, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        progress.step += 1
        progress.seconds = before + time.monotonic() - started
        if progress.step % 25 == 0:
            print(f"step {progress.step} {progress.seconds:.0f} s loss {loss.item():.4f}", flush=True)
        if time.monotonic() - last > 120:
            save_state(checkpoint, {"model": vae}, (optimizer,), progress)
            last = time.monotonic()
    save_state(checkpoint, {"model": vae}, (optimizer,), progress)
    vae.eval()
    if not arguments.decoder_only:
        standardise(vae, to_signal(clips[:256]))
    else:
        kept = AutoencoderKLWan.load_config(arguments.run / "vae")
        vae.register_to_config(latents_mean=kept["latents_mean"], latents_std=kept["latents_std"])
    vae.save_pretrained(arguments.run / "vae")
    print(f"PSNR of the reconstruction {psnr(vae, to_signal(clips[-32:])):.2f} dB")


if __name__ == "__main__":
    main()
