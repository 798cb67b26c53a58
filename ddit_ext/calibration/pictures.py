"""Pictures of a pipeline's output as arrays, and how close two of them are."""

from __future__ import annotations

from typing import Any

import numpy as np

EQUAL = 100.0
"""dB that equal pictures count, so that a mean exists."""


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of each pair of uint8 pictures ``[n, H, W, 3]``: float64 ``[n]``.

    Further axes (the frames of a video, ``[n, F, H, W, 3]``) are averaged over too. Equal pictures count 100 dB.
    """
    error = ((a.astype(np.float64) - b.astype(np.float64)) ** 2).mean(axis=tuple(range(1, a.ndim)))
    return np.minimum(10 * np.log10(255**2 / np.maximum(error, 1e-12)), EQUAL)


def as_uint8(output: Any) -> np.ndarray:
    """uint8 [n, …, H, W, 3] of a pipeline's output with output_type="np": values in [0, 1] under images or frames."""
    values = next(
        (getattr(output, name) for name in ("images", "frames") if getattr(output, name, None) is not None),
        None,
    )
    if values is None:
        raise TypeError(
            f"pipe must return images or frames, as diffusers pipelines do; got {type(output).__name__}"
        )
    array = np.asarray(values)
    return np.uint8(np.rint(np.nan_to_num(array) * 255).clip(0, 255))


def first_frames(pictures: np.ndarray) -> list[np.ndarray]:
    """One picture uint8 [H, W, 3] a sample: itself, or the middle frame of a video."""
    return [sample if sample.ndim == 3 else sample[len(sample) // 2] for sample in pictures]
