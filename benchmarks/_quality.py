"""How close pictures are to other pictures, and how sure that figure is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from skimage.metrics import structural_similarity

from ddit_ext.embedded.classifier import frechet_distance
from ddit_ext.fidelity import psnr

__all__ = ["ALIKE", "bootstrap", "frechet_interval", "psnr", "ssim", "with_interval"]

ALIKE = 50.0
"""dB that count at most in a comparison: samples that equal fixed p would outweigh all others."""


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Structural similarity of each pair of uint8 pictures ``[n, H, W, 3]`` (Wang et al. 2004): float64 ``[n]``.

    For clips ``[n, F, H, W, 3]`` it is the mean over their frames.
    """
    pairs = zip(*(array.reshape(-1, *array.shape[-3:]) for array in (a, b)), strict=True)
    each = np.array([structural_similarity(x, y, channel_axis=-1) for x, y in pairs])
    return each.reshape(len(a), -1).mean(axis=1)


def bootstrap(
    statistic: Callable[[np.ndarray], float], count: int, draws: int = 400, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of ``statistic(index)`` under resampling of ``count`` items with replacement."""
    rng = np.random.default_rng(seed)
    values = [statistic(rng.integers(0, count, count)) for _ in range(draws)]
    return float(np.percentile(values, 2.5)), float(np.percentile(values, 97.5))


def with_interval(values: np.ndarray) -> dict[str, float]:
    """Mean of ``values`` with its 95 % bootstrap interval."""
    low, high = bootstrap(lambda index: values[index].mean(), len(values))
    return {"mean": float(values.mean()), "low": low, "high": high}


def frechet_interval(features: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Fréchet distance of ``features`` ``[n, K]`` to ``real``, and about it as wide an interval as the bootstrap's.

    The bootstrap's own percentiles lie far above the estimate: resamples hold fewer different pictures, and the distance
    grows as they get fewer.
    """
    low, high = bootstrap(lambda index: frechet_distance(features[index], real), len(features), draws=100)
    return centred(frechet_distance(features, real), low, high)


def centred(value: float, low: float, high: float) -> dict[str, float]:
    """The interval moved so that ``value`` is its middle."""
    half = (high - low) / 2
    return {"mean": value, "low": value - half, "high": value + half}
