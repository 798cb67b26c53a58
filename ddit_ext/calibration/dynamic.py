"""Choices that follow the scores: within a budget, and against thresholds found by running."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .choices import Choice, budget, thresholds
from .measure import Measured, Meter

if TYPE_CHECKING:
    from .search import Full

BISECTIONS = 4
"""Runs that a threshold takes: a scores' range of a thousand is then known to a factor of 1.5."""

SILENT = 3
"""The first steps of a run, which have no signal."""


def budgets(meter: Meter, full: Full, fixed: Sequence[Choice]) -> list[Choice]:
    """Budgets at the full number of steps, and at that of the best fixed choice."""
    coarse = [scale for scale in meter.scales if scale > 1]
    costs = [full.seconds[scale] / full.seconds[1] for scale in coarse]
    if not coarse or costs[0] >= 1 or any(a <= b for a, b in zip(costs, costs[1:], strict=False)):
        return []  # a budget needs each size to be cheaper than the one before
    if full.scores is None:
        full.scores = _scores_at_p(meter, full.steps)
    if not full.scores:
        return []
    lengths = dict.fromkeys([full.steps, *(choice.steps for choice in fixed[:1])])
    # The speed is of what is left to gain by sizes alone.
    whole = full.done(full.steps)
    speeds = {steps: full.enough * full.done(steps) / whole for steps in lengths}
    return [
        budget(steps, costs, speed, full.scores)
        for steps, speed in speeds.items()
        if 1 < speed and _can_keep(full.done(steps), costs, speed)
    ]


def by_threshold(meter: Meter, full: Full, steps: int) -> Choice | None:
    """The smallest threshold for all sizes whose run on the first call is fast enough, by bisection.

    full: with its scores.
    """
    seen = [score for row in full.scores or () for score in row if score > 0]
    if not seen:
        return None
    low, high = math.log(min(seen) / 2), math.log(max(seen) * 16)
    warmup = _warmup(meter, full, steps)
    found: Choice | None = None
    for _ in range(BISECTIONS):
        middle = math.exp((low + high) / 2)
        choice = thresholds(steps, [middle] * (len(meter.scales) - 1), warmup)
        done = meter.run(0, choice.strategy(meter.scales, meter.quantile), steps, pictures=False)
        if full.reached(_speed(full, done)):
            found, high = choice, math.log(middle)
        else:
            low = math.log(middle)
    return found


def faster_dynamic(choice: Choice, shortfall: float, done: int) -> Choice | None:
    """The same with less time, or larger thresholds; None where sizes can't.

    shortfall: target over measured speed. done: how many steps a run of it does.
    """
    settings = choice.settings
    if choice.kind == "budget":
        costs, speed = settings["costs"], settings["target"] * shortfall * 1.01
        if not _can_keep(done, costs, speed):
            return None
        return budget(choice.steps, costs, speed, settings["reference"])
    larger = [value * shortfall**2 for value in settings["thresholds"]]
    return thresholds(choice.steps, larger, settings["warmup_scale"])


def _can_keep(steps: int, costs: Sequence[float], speed: float) -> bool:
    """Whether so many steps can be as fast: all but the last at the cheapest size."""
    return steps / speed >= 1 + (steps - 1) * costs[-1]


def _scores_at_p(meter: Meter, steps: int) -> list[list[float]]:
    """[step][scale]: scores of a run in which every step is at p, the mean over samples.

    The first steps, which have no signal, get the scores of the first that has one. Empty without any.
    """
    never = thresholds(steps, [0.0] * (len(meter.scales) - 1), 1)
    done = meter.run(0, never.strategy(meter.scales, meter.quantile), steps, pictures=False)
    rows = [
        [sum(column) / len(step["scores"]) for column in zip(*step["scores"], strict=True)]
        for step in done.steps
        if step["scores"]
    ]
    if not rows or not all(math.isfinite(score) for row in rows for score in row):
        return []
    return [rows[0]] * (len(done.steps) - len(rows)) + rows


def _warmup(meter: Meter, full: Full, steps: int) -> int:
    """The largest size at which the steps without a signal save no more than has to be saved."""
    save = full.done(steps) - full.done(full.steps) / full.enough
    sizes = [scale for scale in meter.scales if SILENT * (1 - full.seconds[scale] / full.seconds[1]) <= save]
    return max(sizes, default=1)


def _speed(full: Full, done: Measured) -> float:
    taken = sum(full.seconds[scale] for scale in done.scales)
    reference = full.runs[0]
    assert reference is not None
    return len(reference.steps) * full.seconds[1] / taken
