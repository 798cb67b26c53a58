"""What a user may write in the place of a strategy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._core import RunPolicy
from . import checks
from .base import DEFAULT_QUANTILE, DEFAULT_SCALES, Strategy
from .fixed import Fixed
from .own import Function, Own


def as_strategy(
    schedule: Any,
    scales: Sequence[int] | None = None,
    quantile: float | None = None,
    protect: tuple[int, int] | None = None,
) -> Strategy:
    """A strategy as it is; an int, a list, a callable(step) -> scale or a policy object as one.

    scales, quantile, protect: beside these, as in `ddit_ext.patch`; None: not given.

    Raises:
        TypeError, ValueError: what is wrong with the schedule, or with what stands beside it.
    """
    given = {"scales": scales, "quantile": quantile, "protect": protect}
    given = {name: value for name, value in given.items() if value is not None}
    if isinstance(schedule, Strategy):
        if given:
            name = next(iter(given))
            raise ValueError(
                f"give schedule or {name}, not both: {type(schedule).__name__} has its own settings"
            )
        return schedule
    if isinstance(schedule, type):
        raise TypeError(
            f"schedule must be an object, got the class {schedule.__name__}: make one, {schedule.__name__}(...)"
        )
    if isinstance(schedule, str):
        raise TypeError(f"schedule must be a strategy such as Forecast(speedup=2), got the text {schedule!r}")
    beside = {"scales": DEFAULT_SCALES, "quantile": DEFAULT_QUANTILE, "protect": (0, 0)} | given
    if checks.is_whole(schedule) or checks.is_sequence(schedule):
        del beside["quantile"]
        made: Strategy = Fixed(schedule, **beside)
    else:
        made = Own(_policy(schedule), **beside)
    if quantile is not None and made.source != "latents":
        raise ValueError(
            f"quantile={quantile!r} is for scores of the latents, at which this schedule does not look: leave it out"
        )
    return made


def _policy(schedule: Any) -> Any:
    """A policy object, or the callable as one; TypeError for anything else."""
    known = isinstance(schedule, RunPolicy) or callable(getattr(schedule, "start", None))
    if known or all(callable(getattr(schedule, name, None)) for name in ("begin", "decide")):
        return schedule
    if callable(schedule):
        return Function(schedule)
    raise TypeError(
        "schedule must be None, an int, a list of one scale a step, a callable(step) -> scale, a strategy such as "
        f"Forecast or Threshold, or an object with begin and decide, got {type(schedule).__name__}"
    )
