"""Choices that forecast steps: which are worth a run, each as expensive as the time allows, around the best so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from .choices import Choice, cost, forecasts
from .plan import computed_in_time

if TYPE_CHECKING:
    from .preset import Candidate
    from .search import Full

MOST = 11
"""So many are run for a target, at most."""

GROWTHS, SHARES = (1.5, 2.0), (0.5, 0.75)
"""Of the gaps, and of the line through the last two computed steps that a forecast follows: each with each at first."""

NEAR = 0.25
"""So far apart are growths and shares that are tried next."""

SPARSE = 3
"""From this target on few steps can be computed at p, and some are tried coarse, so that more of them are computed."""

Found = Iterable[Choice | None]


def by_forecast(full: Full, screen: Callable[[Choice], Candidate]) -> list[Candidate]:
    """What was tried; nothing on a model of few steps, and where steps can't be skipped or that saves nothing."""
    if full.few or full.idle is None or full.idle >= full.seconds[1]:
        return []
    tried: dict[str, Candidate] = {}

    def run(found: Found) -> None:
        for choice in found:
            if choice is not None and repr(choice) not in tried and len(tried) < MOST:
                tried[repr(choice)] = screen(choice)

    steps = _most_steps(full)
    run(fitted(full, steps, share, growth) for growth in GROWTHS for share in SHARES)
    for vary in (_growths, _shares, _fewer_steps, _coarse) if tried else ():
        run(vary(full, max(tried.values(), key=lambda candidate: candidate.psnr).choice))
    return list(tried.values())


def fitted(
    full: Full, steps: int, share: float, growth: float, coarse: Mapping[int, int] | None = None
) -> Choice | None:
    """With as many steps computed at p as the time allows beside the coarse ones; None where they are not two, or all."""
    coarse, costs = coarse or {}, full.costs
    some = sum(coarse.values())
    afford = full.afford - sum(count * costs[scale] for scale, count in coarse.items())
    fine = computed_in_time(steps - some, afford, costs[1], costs[0])
    if fine < 2 or fine + some >= steps:
        return None
    return forecasts(steps, fine + some, share, growth, coarse)


def _most_steps(full: Full) -> int:
    """The full run's, or where skipped steps alone would take up the time, as many as leave enough for two others."""
    return next((steps for steps in range(full.steps, 2, -1) if fitted(full, steps, 0.0, 1.0)), full.steps)


def faster(choice: Choice, costs: Mapping[int, float]) -> Choice | None:
    """The next cheaper one: a step less is computed, or at two of them one less is forecast; None where there is none."""
    computed, coarse, kept = choice.computed, choice.coarse, (choice.forecast, choice.settings["growth"])
    options = [
        forecasts(choice.steps, computed - 1, *kept, coarse | {scale: count - 1})
        for scale, count in coarse.items()
    ]
    if computed - sum(coarse.values()) > 2:
        options.append(forecasts(choice.steps, computed - 1, *kept, coarse))
    if not options and choice.steps - 1 > computed:
        options.append(forecasts(choice.steps - 1, computed, *kept))
    options = [option for option in options if cost(option, costs) < cost(choice, costs)]
    return max(options, key=lambda option: cost(option, costs)) if options else None


def _growths(full: Full, best: Choice) -> Found:
    """Gaps that grow less, and more."""
    growth = best.settings["growth"]
    return [fitted(full, best.steps, best.forecast, near) for near in (growth - NEAR, growth + NEAR)]


def _shares(full: Full, best: Choice) -> Found:
    """Less of the line, and more."""
    near = (best.forecast - NEAR, best.forecast + NEAR)
    return [fitted(full, best.steps, share, best.settings["growth"]) for share in near]


def _fewer_steps(full: Full, best: Choice) -> Found:
    """Half of the way to as many steps as are computed."""
    return [_with(full, best, steps=(best.steps + best.computed) // 2)]


def _coarse(full: Full, best: Choice) -> Found:
    """Half of what is computed between begin and end is given up for coarse steps of one size."""
    if full.target < SPARSE:
        return
    costs = full.costs
    kept = 2 + (best.computed - 2) // 2
    for scale in sorted(full.seconds):
        if costs[0] < costs[scale] < costs[1]:
            left = full.afford - kept * costs[1]
            count = computed_in_time(best.steps - kept, left, costs[scale], costs[0])
            count = min(count, best.steps - kept - 1)
            if count + kept > best.computed:
                yield _with(full, best, coarse={scale: count})


def _with(
    full: Full, best: Choice, steps: int | None = None, coarse: Mapping[int, int] | None = None
) -> Choice | None:
    """The same forecast and growth with another number of steps, or with coarse steps."""
    return fitted(full, steps or best.steps, best.forecast, best.settings["growth"], coarse)
