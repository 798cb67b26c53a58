"""How close pictures are to other pictures, and how sure that figure is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from skimage.metrics import structural_similarity

from ddit_ext.calibration.pictures import psnr

__all__ = ["bootstrap", "psnr", "ssim", "with_interval"]


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
