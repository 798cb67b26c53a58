"""Trains the embedded Wan's autoencoder: clips of 9 frames <-> latents of 24 channels, 3 frames.

    python -m embedded_training.wan.train_autoencoder --minutes 8

It starts as the principal components of the cells. Resumable: a second call goes on from the last checkpoint under
--run until --minutes of training are done in all. With --decoder-only the encoder stays as it is, so that a base model
trained on its latents still fits.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ddit_ext.embedded.clip_autoencoder import GROUP, ClipAutoencoder, to_cells

from ..common import Progress, load_state, save_state
from ..data import draw_clips, load_or_draw, to_signal

POOLED_SHARE = 0.25  # of the batches: clips at half their size, which the base model is first trained on
NOISE_SHARE = 0.5  # of a batch has disturbed latents: the decoder learns to forgive a sampler's errors


@torch.no_grad()
def start_as_components(vae: ClipAutoencoder, clips: torch.Tensor) -> None:
    """Sets both linear maps to the cells' first principal components, scaled to a variance of one at most."""
    reference = None
    for index, cells in enumerate((to_cells(clips[:, :, :1], 1), to_cells(clips[:, :, 1:], GROUP))):
        rows = cells.transpose(0, 1).flatten(1).T
        mean = rows.mean(0)
        _, _, components = torch.pca_lowrank(rows[:: max(1, len(rows) // 50_000)] - mean, vae.config.z_dim)
        scale = ((rows - mean) @ components).std(0)[0]  # one scale: equal errors stay equal
        encode, decode = components.T / scale, components * scale
        if reference is None:  # [z, 3 * 16]: signs of the later frames' components follow the first frame's
            reference = encode
        else:
            still = encode.view(vae.config.z_dim, 3, GROUP, -1).mean(2).flatten(1)
            signs = torch.sign((still * reference).sum(1))
            encode, decode = encode * signs[:, None], decode * signs
        _set(vae.encoder.linear[index], encode, -encode @ mean)
        _set(vae.decoder.linear[index], decode, mean)


def _set(layer: nn.Conv2d, weight: torch.Tensor, bias: torch.Tensor) -> None:
    layer.weight.copy_(weight[:, :, None, None])
    layer.bias.copy_(bias)


def loss_of(vae: ClipAutoencoder, clips: torch.Tensor) -> torch.Tensor:
    latents = vae.encode(clips).latent_dist.mode()
    noise = 0.15 * latents.detach().std((0, 2, 3, 4), keepdim=True) * torch.randn_like(latents)
    disturbed = latents + noise * torch.rand(len(latents), 1, 1, 1, 1) * (
        torch.rand(len(latents), 1, 1, 1, 1) < NOISE_SHARE
    )
    rebuilt = vae.decode(disturbed).sample
    edges = sum(F.l1_loss(rebuilt.diff(dim=axis), clips.diff(dim=axis)) for axis in (2, 3, 4))
    return F.l1_loss(rebuilt, clips) + F.mse_loss(rebuilt, clips) + edges


@torch.no_grad()
def standardise(vae: ClipAutoencoder, clips: torch.Tensor) -> None:
    """Writes what latents are standardised by, channel by channel, into the config that pipelines read.

    Divided by the root of its deviation, a channel of fine detail keeps a smaller say than one of coarse shape; the
    variance is one on average.
    """
    latents = torch.cat([vae.encode(part).latent_dist.mode() for part in clips.split(16)])
    deviations, means = torch.std_mean(latents, dim=(0, 2, 3, 4))
    divisors = (deviations * deviations.mean()).sqrt()
    vae.register_to_config(latents_mean=means.tolist(), latents_std=divisors.tolist())


@torch.no_grad()
def psnr(vae: ClipAutoencoder, clips: torch.Tensor) -> float:
    parts = [vae.decode(vae.encode(part).latent_dist.mode()).sample for part in clips.split(16)]
    return 10 * torch.log10(4 / F.mse_loss(torch.cat(parts), clips)).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/embedded/wan"))
    parser.add_argument("--drawn", type=Path, default=Path("runs/embedded/clips"))
    parser.add_argument("--chunks", type=int, default=128)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--decoder-only", action="store_true")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    clips, _ = load_or_draw(arguments.drawn, arguments.chunks, draw=draw_clips)
    held_out = to_signal(clips[-32:])
    vae = ClipAutoencoder()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=arguments.rate, betas=(0.9, 0.95), weight_decay=0.0)
    checkpoint = arguments.run / "vae-checkpoint"
    progress = load_state(checkpoint, {"model": vae}, (optimizer,))
    if progress is None:
        progress = Progress()
        start_as_components(vae, to_signal(clips[:128]))
        print(f"principal components alone: {psnr(vae.eval(), held_out):.2f} dB", flush=True)
    vae.train()
    if arguments.decoder_only:
        vae.encoder.requires_grad_(False)
    rng = np.random.default_rng(progress.step)
    torch.manual_seed(progress.step)
    started = last = time.monotonic()
    first = before = progress.seconds
    while progress.seconds < arguments.minutes * 60:
        # A call that goes on falls again from its own start.
        done = (progress.seconds - first) / (arguments.minutes * 60 - first)
        for group in optimizer.param_groups:
            group["lr"] = arguments.rate * min(1.0, (progress.step + 1) / 50) * (1 - done) + 1e-5
        batch = to_signal(clips[np.sort(rng.choice(len(clips) - 32, arguments.batch, replace=False))])
        if rng.random() < POOLED_SHARE:
            batch = F.avg_pool3d(batch, (1, 2, 2))
        loss = loss_of(vae, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        progress.step += 1
        progress.seconds = before + time.monotonic() - started
        if progress.step % 50 == 0:
            quality = psnr(vae.eval(), held_out)
            vae.train()
            print(f"step {progress.step} {progress.seconds:.0f} s {quality:.2f} dB", flush=True)
        if time.monotonic() - last > 120:
            save_state(checkpoint, {"model": vae}, (optimizer,), progress)
            last = time.monotonic()
    save_state(checkpoint, {"model": vae}, (optimizer,), progress)
    vae.eval()
    if arguments.decoder_only:
        kept = ClipAutoencoder.load_config(arguments.run / "vae")
        vae.register_to_config(latents_mean=kept["latents_mean"], latents_std=kept["latents_std"])
    else:
        standardise(vae, to_signal(clips[:256]))
    vae.save_pretrained(arguments.run / "vae")
    print(f"reconstruction: {psnr(vae, held_out):.2f} dB")


if __name__ == "__main__":
    main()
