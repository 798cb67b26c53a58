"""How close pictures and clips are to others of the same prompt and seed; for clips, whether time runs the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EQUAL = 100.0
"""dB that equal pictures count, so that a mean exists."""


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of each pair of uint8 pictures ``[n, H, W, 3]``: float64 ``[n]``.

    Further axes (the frames of a video, ``[n, F, H, W, 3]``) are averaged over too. Equal pictures count 100 dB.
    """
    error = ((a.astype(np.float64) - b.astype(np.float64)) ** 2).mean(axis=tuple(range(1, a.ndim)))
    return np.minimum(10 * np.log10(255**2 / np.maximum(error, 1e-12)), EQUAL)


@dataclass(frozen=True)
class TemporalFidelity:
    """n clips against n references, frame by frame and between frames.

    Attributes:
        frame_psnr: dB, float64 ``[n, F]``.
        flicker: root mean square of the difference between the clip's and the reference's frame-to-frame
            differences, in grey levels of 255, float64 ``[n]``. 0: everything changes when and where it does in the
            reference; an error that stands still does not count.
        motion: mean absolute frame-to-frame difference over the reference's, float64 ``[n]``. 1: as much moves;
            below, motion was lost; above, it was added (flicker too). nan where the reference stands still.
    """

    frame_psnr: np.ndarray
    flicker: np.ndarray
    motion: np.ndarray


def temporal_fidelity(clips: np.ndarray, references: np.ndarray) -> TemporalFidelity:
    """Compares clips with references of the same prompts and seeds, such as the fixed-p ones.

    Args:
        clips, references: uint8 ``[n, F, H, W, 3]``.

    Raises:
        ValueError: other types or shapes, or shapes that differ.
    """
    for name, array in (("clips", clips), ("references", references)):
        if array.dtype != np.uint8 or array.ndim != 5 or array.shape[-1] != 3:
            raise ValueError(
                f"{name} must be uint8 of shape [n, F, H, W, 3], got {array.dtype} of {list(array.shape)}"
            )
    if clips.shape != references.shape:
        raise ValueError(
            f"references must have the shape of clips, {list(clips.shape)}, got {list(references.shape)}"
        )
    n, frames = clips.shape[:2]
    flat = (n * frames, *clips.shape[2:])
    each = psnr(clips.reshape(flat), references.reshape(flat)).reshape(n, frames)
    if frames == 1:
        return TemporalFidelity(each, np.zeros(n), np.full(n, np.nan))
    moved, meant = (np.diff(array.astype(np.float64), axis=1) for array in (clips, references))
    rest = tuple(range(1, moved.ndim))
    amount = np.abs(meant).mean(axis=rest)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(amount > 0, np.abs(moved).mean(axis=rest) / amount, np.nan)
    return TemporalFidelity(each, np.sqrt(((moved - meant) ** 2).mean(axis=rest)), ratio)
