"""Which fixed choices are worth a run: those whose predicted cost just fits the time, over steps, order and sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from .choices import Choice, coarse_first, cost, fine_ends
from .schedules import BOTH_ENDS

FEWEST_STEPS = 4
"""A calibration doesn't go below so many steps (or the full run's, where that has fewer)."""

FEW_STEP_MODEL = 8
"""Up to so many steps a model was distilled for them: their number stays, and there is next to no signal."""

LENGTHS = 4
"""So many different numbers of steps are tried at first."""

COARSE_FIRST, FINE_FIRST = 0.0, 1.0
"""Orders of a run's steps, beside BOTH_ENDS: the share of the fine ones that come before the coarse ones. One at least
comes after them.

BOTH_ENDS was closest at equal cost in docs/studies/which-rule.md, fine first next, coarse first last; on another model it may be
otherwise.
"""


def fastest(full: int, costs: Mapping[int, float]) -> Choice:
    """The cheapest run there is: the fewest steps, all but the last at the cheapest size."""
    steps = fewest_steps(full)
    cheapest = min(costs, key=lambda scale: (costs[scale], -scale))
    return coarse_first(steps, {cheapest: steps - 1} if cheapest > 1 else {})


def fewest_steps(full: int) -> int:
    """The smallest number of steps to consider in place of `full`."""
    return full if full <= FEW_STEP_MODEL else FEWEST_STEPS


def fewer_steps(full: int, target: float) -> Choice | None:
    """The most steps at p in the time, fewer than `full`; None where that would be less than one."""
    steps = min(math.floor(full / target + 1e-9), full - 1)
    return coarse_first(steps, {}) if steps >= 1 else None


def computed_in_time(steps: int, afford: float, fine: float, idle: float) -> int:
    """The most of `steps` steps that can be computed within `afford`; fine, idle: cost of a computed, a skipped one."""
    return math.floor((afford - steps * idle) / (fine - idle) + 1e-9) if idle < fine else 0


def lengths(full: int, costs: Mapping[int, float], target: float) -> list[Choice]:
    """Up to LENGTHS numbers of steps, fine at both ends, of the finest sizes that reach the target."""
    afford = full * costs[1] / target
    mixes = {steps: _mixes(steps, costs, afford) for steps in range(max(fewest_steps(full), 2), full + 1)}
    possible = [steps for steps, found in mixes.items() if found]
    count = min(LENGTHS, len(possible))
    picked = sorted({possible[round(i * (len(possible) - 1) / max(count - 1, 1))] for i in range(count)})
    return [_arranged(steps, mixes[steps][0], BOTH_ENDS) for steps in picked]


def orders(choice: Choice, full: int, costs: Mapping[int, float], target: float) -> list[Choice]:
    """The same steps in every order."""
    found = [
        _arranged(choice.steps, choice.coarse, before) for before in (BOTH_ENDS, COARSE_FIRST, FINE_FIRST)
    ]
    return list({repr(made): made for made in found}.values())


def mixes(choice: Choice, full: int, costs: Mapping[int, float], target: float) -> list[Choice]:
    """The same number of steps and order with every mix of sizes, as expensive as the time allows."""
    found = _mixes(choice.steps, costs, full * costs[1] / target)
    return [_arranged(choice.steps, counts, _before(choice)) for counts in found]


def neighbours(choice: Choice, full: int, costs: Mapping[int, float], target: float) -> list[Choice]:
    """The same order and sizes at a few steps more and fewer, as expensive as the time allows."""
    afford = full * costs[1] / target
    reach = max(1, round((full - afford / costs[1]) / (2 * LENGTHS)))
    near = []
    for steps in (choice.steps - reach, choice.steps + reach):
        if max(fewest_steps(full), 2) <= steps <= full:
            found = _mixes(steps, costs, afford)
            found.sort(key=lambda counts: counts.keys() != choice.coarse.keys())  # others where it has to be
            near += [_arranged(steps, counts, _before(choice)) for counts in found[:1]]
    return near


def faster(choice: Choice, full: int, costs: Mapping[int, float]) -> Choice | None:
    """The next cheaper fixed choice of the same kind; None where there is none."""
    counts, before = choice.coarse, _before(choice)
    if not counts:
        return coarse_first(choice.steps - 1, {}) if choice.steps > 1 else None
    useful = _useful(costs)
    tries = []
    if sum(counts.values()) < choice.steps - 1:
        tries.append(counts | {min(counts): counts[min(counts)] + 1})
    for finer, coarser in zip(useful, useful[1:], strict=False):
        if counts.get(finer):
            tries.append(counts | {finer: counts[finer] - 1, coarser: counts.get(coarser, 0) + 1})
    options = [_arranged(choice.steps, changed, before) for changed in tries]
    options = [option for option in options if cost(option, costs) < cost(choice, costs)]
    if not options and choice.steps > max(fewest_steps(full), 2):
        scale = max(counts)
        return _arranged(choice.steps - 1, counts | {scale: max(counts[scale] - 1, 0)}, before)
    return max(options, key=lambda option: cost(option, costs)) if options else None


def _arranged(steps: int, counts: Mapping[int, int], before: float) -> Choice:
    """So many coarse steps of each size, and of the fine ones the share `before` ahead of them."""
    fine = steps - sum(counts.values())
    return fine_ends(steps, min(round(before * fine), fine - 1), counts)


def _before(choice: Choice) -> float:
    """The share of its fine steps that come before the coarse ones."""
    return choice.before / (choice.steps - sum(choice.coarse.values()))


def _useful(costs: Mapping[int, float]) -> list[int]:
    """The coarse sizes that save time, ascending."""
    return [scale for scale in sorted(costs) if scale > 1 and costs[scale] < costs[1]]


def _mixes(steps: int, costs: Mapping[int, float], afford: float) -> list[dict[int, int]]:
    """Coarse steps by size that bring `steps` steps within `afford`: one size alone, or two that share; finest first.

    Empty where all of them fit at p, or where even so the last one would be coarse.
    """
    save = steps * costs[1] - afford
    if save <= 0:
        return []
    coarse = _useful(costs)
    shares: list[Mapping[int, float]] = []
    for place, scale in enumerate(coarse):
        shares.append({scale: 1.0})
        shares += [{scale: 0.5, coarser: 0.5} for coarser in coarse[place + 1 : place + 2]]
    made: list[dict[int, int]] = []
    for share in shares:
        counts = _counts(steps, share, costs, save)
        if counts is not None and counts not in made:
            made.append(counts)
    return made


def _counts(
    steps: int, share: Mapping[int, float], costs: Mapping[int, float], save: float
) -> dict[int, int] | None:
    """The fewest coarse steps that save `save`, a share of it by each size; None where the last step would be coarse."""
    counts: dict[int, int] = {}
    left = save
    scales: Sequence[int] = sorted(share, reverse=True)
    for scale in scales:
        gain = costs[1] - costs[scale]
        last = scale == scales[-1]
        wanted = left if last else save * share[scale]
        counts[scale] = max(0, math.ceil(wanted / gain - 1e-9) if last else round(wanted / gain))
        left -= counts[scale] * gain
    counts = {scale: count for scale, count in counts.items() if count}
    return counts if counts and sum(counts.values()) < steps else None
