"""Choices that forecast steps: which are worth a run, each as expensive as the time allows, around the best so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from .choices import Choice, cost, forecasts
from .plan import computed_in_time

if TYPE_CHECKING:
    from .preset import Candidate
    from .search import Full

MOST = 9
"""So many are run for a target, at most."""

IN_A_ROW, FEWER_IN_A_ROW = 3, 2
"""Computed steps that a run begins with: a parabola goes through three of them, a line through two."""

ORDERS = 2, 1
"""Orders of the forecast that are tried at first."""

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

    run(fitted(full, _most_steps(full), IN_A_ROW, order) for order in ORDERS)
    for vary in (_in_a_row, _fewer_steps, _near, _orders, _coarse) if tried else ():
        run(vary(full, max(tried.values(), key=lambda candidate: candidate.psnr).choice))
    return list(tried.values())


def fitted(
    full: Full, steps: int, before: int, order: int, coarse: Mapping[int, int] | None = None
) -> Choice | None:
    """With as many steps computed at p as the time allows beside the coarse ones; None where they are not two, or all."""
    coarse, costs = coarse or {}, full.costs
    some = sum(coarse.values())
    afford = full.afford - sum(count * costs[scale] for scale, count in coarse.items())
    fine = computed_in_time(steps - some, afford, costs[1], costs[0])
    if fine < 2 or fine + some >= steps:
        return None
    return forecasts(steps, min(before, fine - 1), fine + some, order, coarse)


def _most_steps(full: Full) -> int:
    """The full run's, or where skipped steps alone would take up the time, as many as leave enough for two others."""
    return next((steps for steps in range(full.steps, 2, -1) if fitted(full, steps, IN_A_ROW, 0)), full.steps)


def faster(choice: Choice, costs: Mapping[int, float]) -> Choice | None:
    """The next cheaper one: a step less is computed, or at two of them one less is forecast; None where there is none."""
    steps, before, order, coarse = choice.steps, choice.before, choice.forecast, choice.coarse
    fine = choice.computed - sum(coarse.values())
    options = [
        forecasts(steps, before, choice.computed - 1, order, coarse | {scale: count - 1})
        for scale, count in coarse.items()
    ]
    if fine > 2:
        options.append(forecasts(steps, min(before, fine - 2), choice.computed - 1, order, coarse))
    if not options and steps - 1 > choice.computed:
        options.append(forecasts(steps - 1, before, choice.computed, order))
    options = [option for option in options if cost(option, costs) < cost(choice, costs)]
    return max(options, key=lambda option: cost(option, costs)) if options else None


def _in_a_row(full: Full, best: Choice) -> Found:
    """One computed step less at the begin, and so one more later."""
    return [fitted(full, best.steps, FEWER_IN_A_ROW, best.forecast)]


def _fewer_steps(full: Full, best: Choice) -> Found:
    """Half of the way to as many steps as are computed."""
    return [fitted(full, (best.steps + best.computed) // 2, best.before, best.forecast)]


def _near(full: Full, best: Choice) -> Found:
    """A quarter of that way more and fewer."""
    reach = max(1, (full.steps - best.computed) // 4)
    near = (best.steps - reach, best.steps + reach)
    return [fitted(full, steps, best.before, best.forecast) for steps in near if steps <= full.steps]


def _orders(full: Full, best: Choice) -> Found:
    """A higher order where the higher one was better, and a lower one where the lower was."""
    return [fitted(full, best.steps, best.before, BEYOND[best.forecast])]


def _coarse(full: Full, best: Choice) -> Found:
    """Half of the time of what is computed between begin and end, spent on coarse steps of one size."""
    if full.target < SPARSE:
        return
    costs = full.costs
    kept = best.before + 1 + (best.computed - best.before - 1) // 2
    for scale in sorted(full.seconds):
        if costs[0] < costs[scale] < costs[1]:
            left = full.afford - kept * costs[1]
            count = computed_in_time(best.steps - kept, left, costs[scale], costs[0])
            count = min(count, best.steps - kept - 1)
            if count + kept > best.computed:
                yield fitted(full, best.steps, best.before, best.forecast, {scale: count})
