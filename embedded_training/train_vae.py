"""Trains the embedded model's autoencoder: 64x64 pictures <-> latents of 4 channels on a 32x32 grid.

    python -m embedded_training.train_vae --minutes 8

Resumable: a second call goes on from the last checkpoint under --run until --minutes of training are done in all.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from .common import Progress, load_state, save_state
from .data import load_or_draw, to_signal

KL_WEIGHT = 1e-4
CROP = 32  # pixels: the network is local, and four times as many steps fit into a minute
NOISE_SHARE = (
    0.5  # share of a batch whose latents are disturbed: the decoder learns to forgive a sampler's errors
)


def build() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def loss_of(vae: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    posterior = vae.encode(pictures).latent_dist
    latents = posterior.sample()
    disturbed = latents[: int(len(latents) * NOISE_SHARE)]
    spread = latents.detach().std()
    disturbed = disturbed + 0.1 * spread * torch.rand(len(disturbed), 1, 1, 1) * torch.randn_like(disturbed)
    rebuilt = vae.decode(torch.cat([disturbed, latents[len(disturbed) :]])).sample.float()
    edges = sum(F.l1_loss(rebuilt.diff(dim=axis), pictures.diff(dim=axis)) for axis in (2, 3))
    return (
        F.l1_loss(rebuilt, pictures)
        + F.mse_loss(rebuilt, pictures)
        + edges
        + KL_WEIGHT * posterior.kl().mean() / 4096
    )


@torch.no_grad()
def measure_latents(vae: AutoencoderKL, pictures: torch.Tensor) -> tuple[float, float]:
    """Mean and 1/std of the latents: the config's shift_factor and scaling_factor."""
    latents = torch.cat([vae.encode(part).latent_dist.mode() for part in pictures.split(64)])
    return latents.mean().item(), 1 / latents.std().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/embedded"))
    parser.add_argument("--out", type=Path, default=Path("runs/embedded/vae"))
    parser.add_argument("--chunks", type=int, default=96)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    pictures, _ = load_or_draw(arguments.run / "data", arguments.chunks)
    vae = build()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    checkpoint = arguments.run / "vae-checkpoint"
    progress = load_state(checkpoint, {"model": vae}, (optimizer,)) or Progress()
    rng = np.random.default_rng(progress.step)
    started = last = time.monotonic()
    before = progress.seconds
    while progress.seconds < arguments.minutes * 60:
        done = progress.seconds / (arguments.minutes * 60)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (progress.step + 1) / 100) * (1 - min(done, 1.0)) + 1e-5
        top, left = rng.integers(0, pictures.shape[1] - CROP + 1, 2)
        index = np.sort(rng.choice(len(pictures), arguments.batch, replace=False))
        batch = to_signal(pictures[index, top : top + CROP, left : left + CROP])
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(vae, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        progress.step += 1
        progress.seconds = before + time.monotonic() - started
        if progress.step % 50 == 0:
            print(f"step {progress.step} {progress.seconds:.0f} s loss {loss.item():.4f}", flush=True)
        if time.monotonic() - last > 60:
            save_state(checkpoint, {"model": vae}, (optimizer,), progress)
            last = time.monotonic()
    save_state(checkpoint, {"model": vae}, (optimizer,), progress)
    shift, scale = measure_latents(vae.eval(), to_signal(pictures[:1024]))
    vae.register_to_config(shift_factor=shift, scaling_factor=scale)
    vae.save_pretrained(arguments.out)
    with torch.no_grad():
        sample = to_signal(pictures[-256:])
        error = F.mse_loss(vae.decode(vae.encode(sample).latent_dist.mode()).sample.clamp(-1, 1), sample)
    print(
        f"PSNR of the reconstruction {10 * torch.log10(4 / error).item():.2f} dB, shift {shift:.4f}, scale {scale:.4f}"
    )


if __name__ == "__main__":
    main()
