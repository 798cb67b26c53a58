"""Wan 2.2's two transformers: each is trained over the noise levels at which its pipeline calls it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .config import LOWEST, DistillConfig

HIGH, LOW = "transformer", "transformer_2"
"""The pipeline's names for the one of high noise levels and the one of the rest."""


def has_pair(index: dict[str, Any]) -> bool:
    """Whether a pipeline's ``model_index.json`` names both."""
    return (index.get(LOW) or [None])[0] is not None


def config_of(
    name: str, config: DistillConfig, scales: tuple[int, ...], boundary: float | None
) -> DistillConfig:
    """``config`` with the noise ranges cut to those of the transformer ``name``.

    A range that lies wholly with the other one becomes all that this one is used at: an adapter has to know every
    size at every level that a schedule may ask for.

    Args:
        boundary: the noise level from which on :data:`HIGH` is called; None: there is one transformer.
    """
    if boundary is None:
        return config
    span = (boundary, 1.0) if name == HIGH else (LOWEST, boundary)
    ranges = {}
    for scale in scales:
        low, high = config.range_of(scale)
        cut = max(low, span[0]), min(high, span[1])
        ranges[scale] = cut if cut[0] < cut[1] else span
    return replace(config, noise_range=ranges)
