"""Choices that skip steps: TeaCache's threshold, from the changes of the input in runs so far."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..strategies import StepTimes, TeaCache
from .choices import Choice, skips
from .measure import Measured, Meter
from .plan import computed_in_time

if TYPE_CHECKING:
    from .preset import Candidate
    from .search import Full

RUNS = 3
"""So many thresholds are run: a guess and two corrections, each from the changes that the run before it had."""

HALVINGS = 40
"""Of the range that the threshold is in; nothing is run for these."""

Changes = list[list[list[float]] | None]
"""[step][sample][0]: how much the input of a step has changed; None without a signal."""


def by_change(
    meter: Meter, full: Full, screen: Callable[[Choice], tuple[Candidate, Measured]]
) -> list[Candidate]:
    """What was tried, at the full run's number of steps; nothing where steps can't be skipped."""
    if full.changes is None:
        full.changes = _changes_at_p(meter, full.steps)
    changes = full.changes
    if not changes:
        return []
    tried: dict[str, Candidate] = {}
    count = _affordable(full, full.idle or 0.0)
    for _ in range(RUNS):
        choice = with_computed(full.steps, changes, count)
        if choice is None or repr(choice) in tried:
            break
        candidate, done = screen(choice)
        tried[repr(choice)] = candidate
        changes, computed = changes_of(done), computed_in(done)
        idle = [step["seconds"] for step in done.steps if step["scale"] == 0]
        count = _affordable(full, statistics.median(idle) if idle else 0.0)
        if not candidate.reached:
            count = min(count, computed - 1)
        elif count <= computed:
            break  # the time is used up
    return list(tried.values())


def with_computed(steps: int, changes: Changes, count: int) -> Choice | None:
    """The threshold at which `count` steps are computed, if the input changes as in `changes`; fewer, where none is.

    None where even the largest threshold computes more, or where nothing has to be skipped.
    """
    most = 2 * sum(max(score[0] for score in scores) for scores in changes if scores)
    if not 0 < most < math.inf or count >= len(changes) or _computed(most, changes) > count:
        return None
    enough = _least(most, changes, count)
    computed = _computed(enough, changes)
    # In the middle of the thresholds that compute as many: other prompts are a little off.
    middle = (enough + _least(most, changes, computed - 1)) / 2
    threshold = middle if _computed(middle, changes) == computed else enough
    return skips(steps, threshold, len(changes) - computed)


def faster(choice: Choice, done: Measured) -> Choice | None:
    """A larger threshold that computes a step less than `done`, the run of `choice`; None where there is none."""
    return with_computed(choice.steps, changes_of(done), computed_in(done) - 1)


def computed_in(done: Measured) -> int:
    """How many of a run's steps were not skipped."""
    return len(done.steps) - done.scales.count(0)


def changes_of(done: Measured) -> Changes:
    """Those of a run that was compared by its input."""
    return [step["scores"] for step in done.steps]


def _least(most: float, changes: Changes, count: int) -> float:
    """The smallest threshold that computes no more than `count` steps, to a share of `most`; `most` where none does."""
    low, high = 0.0, most
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if _computed(middle, changes) <= count:
            high = middle
        else:
            low = middle
    return high


def _computed(threshold: float, changes: Changes) -> int:
    """How many steps a run with these changes computes: the policy itself is asked."""
    policy = TeaCache(threshold).start(StepTimes())
    policy.begin(len(changes))
    return sum(policy.decide(step, scores) != 0 for step, scores in enumerate(changes))


def _affordable(full: Full, idle: float) -> int:
    """Computed steps in the time; idle: seconds of a skipped one."""
    reference, fine = full.runs[0], full.seconds[1]
    assert reference is not None
    whole = len(reference.steps)
    return computed_in_time(whole, whole * fine / full.enough, fine, idle)


def _changes_at_p(meter: Meter, steps: int) -> Changes:
    """Those of a run in which next to nothing is skipped; none where steps can't be skipped."""
    try:
        done = meter.run(0, skips(steps, 1e-30).strategy(meter.scales, meter.quantile), steps, pictures=False)
    except NotImplementedError:  # a cache of diffusers
        return []
    return changes_of(done)
