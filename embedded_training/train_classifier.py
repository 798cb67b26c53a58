"""Trains the classifier that scores prompts, on drawn scenes and on their pass through the autoencoder.

    python -m embedded_training.train_classifier --minutes 15
    python -m embedded_training.train_classifier --clips --minutes 8

With --clips on single frames of clips, whose objects are smaller, from the weights that the scenes gave.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from ddit_ext.embedded import clips, scenes
from ddit_ext.embedded.classifier import SceneClassifier, found
from ddit_ext.embedded.clip_autoencoder import ClipAutoencoder
from ddit_ext.embedded.vocabulary import COLOUR_NAMES, OBJECT_NAMES, PATTERN_NAMES, parse

from .common import Progress, load_state, save_state
from .data import EVALUATION_SEED, draw_clips, load_or_draw, to_signal

REBUILT_SHARE = 0.25  # of a batch: what the autoencoder loses must not count as a missing object


def labels_of(prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    objects = torch.zeros(len(prompts), len(OBJECT_NAMES))
    pattern, colour = (torch.zeros(len(prompts), dtype=torch.long) for _ in range(2))
    for i, prompt in enumerate(prompts):
        names, pattern_name, colour_name = parse(prompt)
        objects[i, [OBJECT_NAMES.index(name) for name in names]] = 1
        pattern[i], colour[i] = PATTERN_NAMES.index(pattern_name), COLOUR_NAMES.index(colour_name)
    return objects, pattern, colour


@torch.no_grad()
def rebuilt(vae: AutoencoderKL | ClipAutoencoder, signal: torch.Tensor) -> torch.Tensor:
    """Pictures after a pass through the autoencoder; a video's sees each as a clip of one frame."""
    if isinstance(vae, ClipAutoencoder):
        return vae.decode(vae.encode(signal[:, :, None]).latent_dist.mode()).sample[:, :, 0]
    with torch.autocast("cpu", torch.bfloat16):
        return vae.decode(vae.encode(signal).latent_dist.mode()).sample.float().clamp(-1, 1)


def fresh(of_clips: bool) -> tuple[np.ndarray, list[str]]:
    """Pictures that nothing was trained on, and their prompts."""
    if of_clips:
        drawn, moving = clips.clips(256, EVALUATION_SEED)
        return drawn[np.arange(256), np.arange(256) % clips.FRAMES], [clip.prompt for clip in moving]
    drawn, still = scenes.pictures(1024, EVALUATION_SEED)
    return drawn, [scene.prompt for scene in still]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/embedded"))
    parser.add_argument("--clips", action="store_true", help="frames of clips instead of scenes")
    parser.add_argument("--chunks", type=int, default=96, help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--batch", type=int, default=96)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    model = SceneClassifier()
    scenes_run = arguments.run
    if arguments.clips:
        run = scenes_run / "wan"
        pictures, prompts = load_or_draw(scenes_run / "clips", arguments.chunks, draw=draw_clips)
        vae = ClipAutoencoder.from_pretrained(run / "vae").eval()
        model.load_state_dict(SceneClassifier.load(scenes_run / "classifier.safetensors").state_dict())
    else:
        run = scenes_run
        pictures, prompts = load_or_draw(run / "data", arguments.chunks)
        vae = AutoencoderKL.from_pretrained(run / "vae").eval()
    objects, pattern, colour = labels_of(prompts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    checkpoint = run / "classifier-checkpoint"
    progress = load_state(checkpoint, {"model": model}, (optimizer,)) or Progress()
    rng = np.random.default_rng(progress.step)
    started, before = time.monotonic(), progress.seconds
    while progress.seconds < arguments.minutes * 60:
        done = progress.seconds / (arguments.minutes * 60)
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (progress.step + 1) / 100) * (1 - done) + 1e-5
        index = np.sort(rng.choice(len(pictures), arguments.batch, replace=False))
        frames = (rng.integers(0, clips.FRAMES, len(index)),) if arguments.clips else ()
        signal = to_signal(pictures[(index, *frames)])
        share = int(arguments.batch * REBUILT_SHARE)
        signal[:share] = rebuilt(vae, signal[:share])
        signal += 0.05 * torch.rand(len(signal), 1, 1, 1) * torch.randn_like(signal)
        with torch.autocast("cpu", torch.bfloat16):
            out = model(signal)
        loss = (
            4 * F.binary_cross_entropy_with_logits(out["objects"].float(), objects[index])
            + F.cross_entropy(out["pattern"].float(), pattern[index])
            + F.cross_entropy(out["colour"].float(), colour[index])
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress.step += 1
        progress.seconds = before + time.monotonic() - started
        if progress.step % 50 == 0:
            print(f"step {progress.step} {progress.seconds:.0f} s loss {loss.item():.4f}", flush=True)
    save_state(checkpoint, {"model": model}, (optimizer,), progress)
    model.eval().save(run / "classifier.safetensors")

    drawn, asked = fresh(arguments.clips)
    verdict = model.look(drawn)
    print(
        f"fresh pictures: {found(verdict, asked).mean():.4f}; shuffled prompts: {found(verdict, asked[1:] + asked[:1]).mean():.4f}"
    )


if __name__ == "__main__":
    main()
