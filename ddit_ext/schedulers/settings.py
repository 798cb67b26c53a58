"""What a user may ask of a forecast, checked: for ForecastScheduler and for the sampler in k-diffusion's form."""

from __future__ import annotations

import math
from typing import Any


def check_settings(
    who: str, calls: Any, speedup: Any, target: Any, growth: Any, slope: Any, corrector: Any
) -> None:
    """Raise ValueError, in the name of `who`, for settings that are not meant."""
    if (calls is None) == (speedup is None):
        raise ValueError(f"{who}: give one of calls and speedup, got calls={calls}, speedup={speedup}.")
    if calls is not None and (isinstance(calls, bool) or not isinstance(calls, int) or calls < 1):
        raise ValueError(f"{who}: calls must be a whole number of 1 or more, got {calls!r}.")
    if speedup is not None and not (_is_number(speedup) and 1 <= speedup < math.inf):
        raise ValueError(f"{who}: speedup must be a number of 1 or more, got {speedup!r}.")
    if target not in ("run", "exact"):
        raise ValueError(f'{who}: target must be "run" or "exact", got {target!r}.')
    for name, value, low, high in (
        ("growth", growth, 1, 4),
        ("slope", slope, 0, 1),
        ("corrector", corrector, 0, 1),
    ):
        if value is not None and not (_is_number(value) and low <= value <= high):
            raise ValueError(f"{who}: {name} must be in [{low}, {high}] or None, got {value!r}.")


def calls_of(who: str, steps: int, calls: int | None, speedup: float | None) -> int:
    """How many of `steps` call the model; ValueError, in the name of `who`, where that can't be."""
    if calls is None:
        calls = math.floor(steps / speedup + 1e-9)
        if calls < 2 and speedup > 1:
            raise ValueError(
                f"{who}: speedup={speedup:g} of {steps} steps leaves {calls} model calls, and 2 are "
                f"needed. Ask for a speedup up to {max(steps / 2, 1):g}, or the pipeline for more steps."
            )
    if calls > steps:
        raise ValueError(
            f"{who}: calls={calls} is more than the pipeline's {steps} steps. Ask for fewer calls, or "
            "the pipeline for more steps."
        )
    return calls


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
