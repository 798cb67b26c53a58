"""Fixed scales that are worth a run: those whose predicted cost just fits the time, over steps, order and scales."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from ..strategies import Fixed
from .reference import FEW_STEP_MODEL, Reference
from .runner import Setting

FEWEST_STEPS = 4
"""A calibration doesn't go below so many steps (or the full run's, where that has fewer)."""

LENGTHS = 4
"""So many different numbers of steps are tried at first."""

COARSE_FIRST, BOTH_ENDS, FINE_FIRST = 0.0, 5 / 7, 1.0
"""Orders of a run's steps: the share of the full-size ones that come before the coarse ones. One at least comes after.

Both ends was closest at equal cost in docs/studies/which-rule.md, fine first next, coarse first last; on another model
it may be otherwise.
"""


def arranged(steps: int, counts: Mapping[int, int], before: float) -> Setting:
    """So many coarse steps of each scale, and the share `before` of the full-size ones ahead of them."""
    full = steps - sum(counts.values())
    ahead = min(round(before * full), full - 1)
    order = sorted(counts, reverse=not ahead)  # the coarsest first only where they begin the run
    coarse = [scale for scale in order for _ in range(counts[scale])]
    if not coarse:
        return Setting(steps, Fixed(1))
    return Setting(steps, Fixed([1] * ahead + coarse + [1] * (full - ahead), stretch=True))


def coarse_counts(setting: Setting) -> dict[int, int]:
    """{scale: steps} of the coarse steps."""
    return dict(Counter(size for size in setting.strategy.computed_scales(setting.steps) if size > 1))


def fastest(steps: int, costs: Mapping[int, float]) -> Setting:
    """The cheapest run there is: the fewest steps, all but the last at the cheapest scale."""
    fewest = fewest_steps(steps)
    cheapest = min(costs, key=lambda scale: (costs[scale], -scale))
    return arranged(fewest, {cheapest: fewest - 1} if cheapest > 1 else {}, COARSE_FIRST)


def fewest_steps(full: int) -> int:
    """The smallest number of steps to consider in place of `full`."""
    return full if full <= FEW_STEP_MODEL else FEWEST_STEPS


def fewer_steps(reference: Reference) -> Setting | None:
    """The most full-size steps in the time, fewer than the full run's; None where that would be less than one."""
    steps = min(math.floor(reference.steps / reference.enough + 1e-9), reference.steps - 1)
    return Setting(steps, Fixed(1)) if steps >= 1 else None


def lengths(reference: Reference) -> list[Setting]:
    """Up to LENGTHS numbers of steps, full-size at both ends, of the finest scales that reach the target."""
    full = reference.steps
    found = {steps: _mixes(steps, reference) for steps in range(max(fewest_steps(full), 2), full + 1)}
    possible = [steps for steps, mixes_ in found.items() if mixes_]
    count = min(LENGTHS, len(possible))
    picked = sorted({possible[round(i * (len(possible) - 1) / max(count - 1, 1))] for i in range(count)})
    return [arranged(steps, found[steps][0], BOTH_ENDS) for steps in picked]


def orders(best: Setting, reference: Reference) -> list[Setting]:
    """The same steps in every order."""
    counts = coarse_counts(best)
    return [arranged(best.steps, counts, before) for before in (BOTH_ENDS, COARSE_FIRST, FINE_FIRST)]


def mixes(best: Setting, reference: Reference) -> list[Setting]:
    """The same number of steps and order with every mix of scales, as expensive as the time allows."""
    return [arranged(best.steps, counts, _before(best)) for counts in _mixes(best.steps, reference)]


def neighbours(best: Setting, reference: Reference) -> list[Setting]:
    """The same order and scales at a few steps more and fewer, as expensive as the time allows."""
    full = reference.steps
    reach = max(1, round((full - full / reference.enough) / (2 * LENGTHS)))
    near = []
    for steps in (best.steps - reach, best.steps + reach):
        if max(fewest_steps(full), 2) <= steps <= full:
            found, own = _mixes(steps, reference), coarse_counts(best).keys()
            found.sort(key=lambda counts: counts.keys() != own)  # other scales where it has to be
            near += [arranged(steps, counts, _before(best)) for counts in found[:1]]
    return near


def faster(setting: Setting, reference: Reference) -> Setting | None:
    """The next cheaper one of the same kind; None where there is none."""
    counts, before, costs = coarse_counts(setting), _before(setting), reference.seconds
    if not counts:
        return Setting(setting.steps - 1, Fixed(1)) if setting.steps > 1 else None
    useful = _useful(costs)
    tries = []
    if sum(counts.values()) < setting.steps - 1:
        tries.append(counts | {min(counts): counts[min(counts)] + 1})
    for finer, coarser in zip(useful, useful[1:], strict=False):
        if counts.get(finer):
            tries.append(counts | {finer: counts[finer] - 1, coarser: counts.get(coarser, 0) + 1})
    options = [arranged(setting.steps, changed, before) for changed in tries]
    options = [option for option in options if reference.speed(option) > reference.speed(setting)]
    if not options and setting.steps > max(fewest_steps(reference.steps), 2):
        scale = max(counts)
        return arranged(setting.steps - 1, counts | {scale: max(counts[scale] - 1, 0)}, before)
    return min(options, key=reference.speed, default=None)


def _before(setting: Setting) -> float:
    """The share of its full-size steps that come before the coarse ones."""
    sizes = setting.strategy.computed_scales(setting.steps)
    ahead = next((step for step, size in enumerate(sizes) if size > 1), 0)
    return ahead / sizes.count(1)


def _useful(costs: Mapping[int, float]) -> list[int]:
    """The coarse scales that save time, ascending."""
    return [scale for scale in sorted(costs) if scale > 1 and costs[scale] < costs[1]]


def _mixes(steps: int, reference: Reference) -> list[dict[int, int]]:
    """Coarse steps by scale that bring `steps` steps within the time: one scale alone, or two that share; finest first.

    Empty where all of them fit at scale 1, or where even so the last one would be coarse.
    """
    costs = reference.seconds
    save = (steps - reference.steps / reference.enough) * costs[1]
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
    """The fewest coarse steps that save `save`, a share of it by each scale; None where the last would be coarse."""
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
