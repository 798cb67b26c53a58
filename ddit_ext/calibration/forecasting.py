"""Choices that forecast steps: which are worth a run, each as expensive as the time allows, around the best so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from .choices import Choice, cost, forecasts
from .plan import computed_in_time

if TYPE_CHECKING:
    from .preset import Candidate
    from .search import Full

MOST = 10
"""So many are run for a target, at most."""

GROWTH = 1.75
"""Of the gaps at first, as `policies.growing_gaps` has it by itself: what the blocks add changes most in the first steps."""

OTHER_GROWTHS = 1.25, 2.25
"""What is tried beside it."""

ORDERS = 1, 2
"""Orders of the forecast that are tried at first: a line and a parabola."""

BEYOND = {2: 3, 1: 0}
"""What is tried where one of them is the better one."""

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

    run(fitted(full, _most_steps(full), order, GROWTH) for order in ORDERS)
    for vary in (_growths, _fewer_steps, _near, _orders, _coarse) if tried else ():
        run(vary(full, max(tried.values(), key=lambda candidate: candidate.psnr).choice))
    return list(tried.values())


def fitted(
    full: Full, steps: int, order: int, growth: float, coarse: Mapping[int, int] | None = None
) -> Choice | None:
    """With as many steps computed at p as the time allows beside the coarse ones; None where they are not two, or all."""
    coarse, costs = coarse or {}, full.costs
    some = sum(coarse.values())
    afford = full.afford - sum(count * costs[scale] for scale, count in coarse.items())
    fine = computed_in_time(steps - some, afford, costs[1], costs[0])
    if fine < 2 or fine + some >= steps:
        return None
    return forecasts(steps, fine + some, order, growth, coarse)


def _most_steps(full: Full) -> int:
    """The full run's, or where skipped steps alone would take up the time, as many as leave enough for two others."""
    return next((steps for steps in range(full.steps, 2, -1) if fitted(full, steps, 0, GROWTH)), full.steps)


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
    return [fitted(full, best.steps, best.forecast, growth) for growth in OTHER_GROWTHS]


def _fewer_steps(full: Full, best: Choice) -> Found:
    """Half of the way to as many steps as are computed."""
    return [_with(full, best, steps=(best.steps + best.computed) // 2)]


def _near(full: Full, best: Choice) -> Found:
    """A quarter of that way more and fewer."""
    reach = max(1, (full.steps - best.computed) // 4)
    near = (best.steps - reach, best.steps + reach)
    return [_with(full, best, steps=steps) for steps in near if steps <= full.steps]


def _orders(full: Full, best: Choice) -> Found:
    """A higher order where the higher one was better, and a lower one where the lower was."""
    return [fitted(full, best.steps, BEYOND[best.forecast], best.settings["growth"])]


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
    """The same order and growth with another number of steps, or with coarse steps."""
    return fitted(full, steps or best.steps, best.forecast, best.settings["growth"], coarse)
