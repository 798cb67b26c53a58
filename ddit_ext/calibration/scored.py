"""Strategies that follow the scores: budgets, and thresholds found by running."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ..strategies import Budget, Threshold
from .reference import Reference
from .runner import Measured, Setting

BISECTIONS = 4
"""Runs that a threshold takes: a scores' range of a thousand is then known to a factor of 1.5."""

SILENT = 3
"""The first steps of a run, which have no signal."""


def budgets(
    reference: Reference, scales: Sequence[int], quantile: float, best: Setting | None
) -> list[Setting]:
    """Budgets at the full number of steps, and at that of the best fixed setting."""
    seconds = reference.seconds
    costs = [seconds[scale] / seconds[1] for scale in scales[1:]]
    if costs[0] >= 1 or any(a <= b for a, b in zip(costs, costs[1:], strict=False)):
        return []  # a budget needs each scale to be cheaper than the one before
    if reference.scores is None:
        reference.scores = _full_size_scores(reference, scales, quantile)
    if not reference.scores:
        return []
    numbers = dict.fromkeys([reference.steps, *([] if best is None else [best.steps])])
    # The speed is what is left to gain by scales alone.
    whole = reference.done(reference.steps)
    speeds = {steps: reference.enough * reference.done(steps) / whole for steps in numbers}
    return [
        Setting(steps, Budget(speed, scales, quantile, costs=costs, reference=reference.scores))
        for steps, speed in speeds.items()
        if 1 < speed and _can_keep(reference.done(steps), costs, speed)
    ]


def by_threshold(reference: Reference, scales: Sequence[int], quantile: float, steps: int) -> Setting | None:
    """The smallest threshold for all scales whose run on the first call is fast enough, by bisection."""
    seen = [score for row in reference.scores or () for score in row if score > 0]
    if not seen:
        return None
    low, high = math.log(min(seen) / 2), math.log(max(seen) * 16)
    warmup = _warmup(reference, scales, steps)
    found: Setting | None = None
    for _ in range(BISECTIONS):
        middle = math.exp((low + high) / 2)
        setting = Setting(steps, _threshold(middle, scales, quantile, warmup))
        if reference.reached(_speed(reference, reference.runner.run(0, setting, pictures=False))):
            found, high = setting, math.log(middle)
        else:
            low = math.log(middle)
    return found


def less_time(setting: Setting, reference: Reference, speed: float) -> Setting | None:
    """A budget of less time, where a run of it had only `speed`; None where scales can't."""
    budget, shortfall = setting.strategy, reference.enough / speed
    wanted = budget.speedup * shortfall * 1.01
    if not _can_keep(reference.done(setting.steps), budget.costs, wanted):
        return None
    return Setting(setting.steps, replace(budget, speedup=wanted))


def larger_threshold(setting: Setting, reference: Reference, speed: float) -> Setting:
    """Larger thresholds, where a run of these had only `speed`."""
    larger = [value * (reference.enough / speed) ** 2 for value in setting.strategy.thresholds]
    return Setting(setting.steps, replace(setting.strategy, threshold=larger))


def _threshold(value: float, scales: Sequence[int], quantile: float, warmup: int) -> Threshold:
    """A run that never goes back to a larger scale and ends at scale 1."""
    return Threshold(
        value, scales, quantile, protect=(0, 1), warmup_scale=warmup, only_finer=True, mixed="hold"
    )


def _can_keep(steps: int, costs: Sequence[float], speed: float) -> bool:
    """Whether so many steps can be as fast: all but the last at the cheapest scale."""
    return steps / speed >= 1 + (steps - 1) * costs[-1]


def _full_size_scores(reference: Reference, scales: Sequence[int], quantile: float) -> list[list[float]]:
    """[step][scale]: scores of a run in which every step is at scale 1, the mean over samples.

    The first steps, which have no signal, get the scores of the first that has one. Empty without any.
    """
    never = Setting(reference.steps, _threshold(0.0, scales, quantile, 1))
    done = reference.runner.run(0, never, pictures=False)
    rows = [
        [sum(column) / len(step["scores"]) for column in zip(*step["scores"], strict=True)]
        for step in done.steps
        if step["scores"]
    ]
    if not rows or not all(math.isfinite(score) for row in rows for score in row):
        return []
    return [rows[0]] * (len(done.steps) - len(rows)) + rows


def _warmup(reference: Reference, scales: Sequence[int], steps: int) -> int:
    """The largest scale at which the steps without a signal save no more than has to be saved."""
    save = reference.done(steps) - reference.done(reference.steps) / reference.enough
    seconds = reference.seconds
    return max(scale for scale in scales if scale == 1 or SILENT * (1 - seconds[scale] / seconds[1]) <= save)


def _speed(reference: Reference, done: Measured) -> float:
    taken = sum(reference.seconds[scale] for scale in done.scales)
    return len(reference.run(0).steps) * reference.seconds[1] / taken
