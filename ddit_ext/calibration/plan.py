"""Which fixed choices are worth a run: those whose predicted cost just fits the time, over steps and sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from .choices import Choice, coarse_first, cost

FEWEST_STEPS = 4
"""A calibration doesn't go below so many steps (or the full run's, where that has fewer)."""

FEW_STEP_MODEL = 8
"""Up to so many steps a model was distilled for them: their number stays, and there is next to no signal."""

LENGTHS = 4
"""So many different numbers of steps are tried at first."""


def fastest(full: int, costs: Mapping[int, float]) -> Choice:
    """The cheapest run there is: the fewest steps, all but the last at the cheapest size."""
    steps = fewest_steps(full)
    cheapest = min(costs, key=lambda scale: (costs[scale], -scale))
    return coarse_first(steps, {cheapest: steps - 1} if cheapest > 1 else {})


def fewest_steps(full: int) -> int:
    """The smallest number of steps to consider in place of `full`."""
    return full if full <= FEW_STEP_MODEL else FEWEST_STEPS


def fewer_steps(full: int, target: float) -> Choice | None:
    """The most steps at p in the time; None where that would be less than one."""
    steps = math.floor(full / target + 1e-9)
    return coarse_first(steps, {}) if steps >= 1 else None


def coarse_choices(full: int, costs: Mapping[int, float], target: float) -> list[Choice]:
    """Coarse-first schedules of several lengths, each as expensive as the time allows."""
    afford = full * costs[1] / target
    lengths = [
        steps
        for steps in range(max(fewest_steps(full), 2), full + 1)
        if steps * costs[1] > afford and _mixes(steps, costs, afford)
    ]
    count = min(LENGTHS, len(lengths))
    picked = sorted({lengths[round(i * (len(lengths) - 1) / max(count - 1, 1))] for i in range(count)})
    return [choice for steps in picked for choice in _mixes(steps, costs, afford)]


def neighbours(choice: Choice, full: int, costs: Mapping[int, float], target: float) -> list[Choice]:
    """The same mixes at a few steps more and fewer, as expensive as the time allows."""
    afford = full * costs[1] / target
    reach = max(1, round((full - afford / costs[1]) / (2 * LENGTHS)))
    near = [choice.steps - reach, choice.steps + reach]
    return [
        mix
        for steps in near
        if max(fewest_steps(full), 2) <= steps <= full and steps * costs[1] > afford
        for mix in _mixes(steps, costs, afford)
    ]


def faster(choice: Choice, full: int, costs: Mapping[int, float]) -> Choice | None:
    """The next cheaper fixed choice of the same kind; None where there is none."""
    first = dict(choice.settings["first"])
    if not first:
        return coarse_first(choice.steps - 1, {}) if choice.steps > 1 else None
    useful = [scale for scale in sorted(costs) if scale > 1 and costs[scale] < costs[1]]
    tries = []
    if sum(first.values()) < choice.steps - 1:
        tries.append(first | {min(first): first[min(first)] + 1})
    for finer, coarser in zip(useful, useful[1:], strict=False):
        if first.get(finer):
            tries.append(first | {finer: first[finer] - 1, coarser: first.get(coarser, 0) + 1})
    options = [coarse_first(choice.steps, counts) for counts in tries]
    options = [option for option in options if cost(option, costs) < cost(choice, costs)]
    if not options and choice.steps > max(fewest_steps(full), 2):
        scale = max(first)
        return coarse_first(choice.steps - 1, first | {scale: max(first[scale] - 1, 0)})
    return max(options, key=lambda option: cost(option, costs)) if options else None


def _mixes(steps: int, costs: Mapping[int, float], afford: float) -> list[Choice]:
    """Coarse-first schedules of `steps` steps within `afford`: one coarse size alone, or two that share."""
    coarse = [scale for scale in sorted(costs) if scale > 1 and costs[scale] < costs[1]]
    save = steps * costs[1] - afford
    shares: list[Mapping[int, float]] = [{scale: 1.0} for scale in coarse]
    shares += [{a: 0.5, b: 0.5} for a, b in zip(coarse, coarse[1:], strict=False)]
    made: list[Choice] = []
    for share in shares:
        counts = _counts(steps, share, costs, save)
        if counts is not None:
            choice = coarse_first(steps, counts)
            if choice not in made:
                made.append(choice)
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
    return counts if sum(counts.values()) < steps else None
