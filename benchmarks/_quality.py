"""How close pictures are to other pictures, and how sure that figure is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from skimage.metrics import structural_similarity


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of each pair of uint8 pictures ``[n, H, W, 3]``: float64 ``[n]``.

    Equal pictures count 100 dB, so that a mean exists.
    """
    error = ((a.astype(np.float64) - b.astype(np.float64)) ** 2).mean(axis=(1, 2, 3))
    return np.minimum(10 * np.log10(255**2 / np.maximum(error, 1e-12)), 100.0)


def ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Structural similarity of each pair of uint8 pictures ``[n, H, W, 3]`` (Wang et al. 2004): float64 ``[n]``."""
    return np.array([structural_similarity(x, y, channel_axis=-1) for x, y in zip(a, b, strict=True)])


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
