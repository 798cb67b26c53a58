"""Scenes and clips on disk, drawn once: the pictures as one uint8 array, their prompts as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ddit_ext.embedded import clips, scenes

CHUNK = 512  # scenes a seed: the first seeds of a larger set are those of a smaller one
CLIP_CHUNK = 64  # clips a seed: nine pictures each


def draw_scenes(seed: int) -> tuple[np.ndarray, list[str]]:
    """A chunk of scenes: uint8 ``[512, 64, 64, 3]`` and their prompts."""
    drawn, described = scenes.pictures(CHUNK, seed)
    return drawn, [scene.prompt for scene in described]


def draw_clips(seed: int) -> tuple[np.ndarray, list[str]]:
    """A chunk of clips: uint8 ``[64, 9, 96, 96, 3]`` and their prompts."""
    drawn, described = clips.clips(CLIP_CHUNK, seed)
    return drawn, [clip.prompt for clip in described]


def load_or_draw(
    folder: Path,
    chunks: int,
    workers: int = 2,
    draw: Callable[[int], tuple[np.ndarray, list[str]]] = draw_scenes,
) -> tuple[np.ndarray, list[str]]:
    """``chunks`` of scenes or clips, from ``folder`` if they were drawn before.

    Training scenes have the seeds 0, 1, 2, …; fresh ones for evaluation start at :data:`EVALUATION_SEED`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    array, prompts = folder / f"scenes-{chunks}.npy", folder / f"prompts-{chunks}.json"
    if draw is draw_clips:
        array, prompts = folder / f"clips-{chunks}.npy", folder / f"clip-prompts-{chunks}.json"
    if array.exists() and prompts.exists():
        return np.load(array, mmap_mode="r"), json.loads(prompts.read_text())
    pictures: list[np.ndarray] = []
    texts: list[str] = []
    with ProcessPoolExecutor(workers) as pool:
        for drawn, described in tqdm(
            pool.map(draw, range(chunks)), total=chunks, desc=array.stem, unit="chunk"
        ):
            pictures.append(drawn)
            texts.extend(described)
    np.save(array, np.concatenate(pictures))
    prompts.write_text(json.dumps(texts))
    return np.load(array, mmap_mode="r"), texts


EVALUATION_SEED = 1_000_000


def to_signal(pictures: np.ndarray):
    """uint8 ``[n, ..., H, W, 3]`` -> float32 ``[n, 3, ..., H, W]`` in [-1, 1]: pictures, or clips of frames."""
    import torch

    return torch.from_numpy(np.array(pictures)).movedim(-1, 1).float() / 127.5 - 1
