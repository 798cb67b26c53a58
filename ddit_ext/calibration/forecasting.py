"""Choices that forecast steps: which are worth a run, each as expensive as the time allows, around the best so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from .choices import Choice, cost, forecasts
from .plan import computed_in_time

if TYPE_CHECKING:
    from .preset import Candidate
    from .search import Full

GROWTHS = (1.5, 1.75, 2.0)
LINES = ((0.5, 0.0), (0.75, 1.0))
"""Growth of the gaps; how far a forecast follows the line through the last two computed steps, and how much of it is
corrected: each of the first with each of the second is tried at first."""

SHORT_LINES = (*LINES, (0.0, 1.0))
"""Likewise from SPARSE on: over long gaps lines overshoot, and what a correction goes by is wrong itself."""

NEAR = 0.25
"""So far apart are growths and shares of the line that are tried next."""

SPARSE = 3
"""From this target on few steps can be computed at p: other lines are tried, and coarse steps, so that more are computed."""

Found = Iterable[Choice | None]


def by_forecast(full: Full, screen: Callable[[Choice], Candidate]) -> list[Candidate]:
    """What was tried; nothing on a model of few steps, and where steps can't be skipped or that saves nothing."""
    if full.few or full.idle is None or full.idle >= full.seconds[1]:
        return []
    tried: dict[str, Candidate] = {}

    def run(found: Found) -> None:
        for choice in found:
            if choice is not None and repr(choice) not in tried:
                tried[repr(choice)] = screen(choice)

    steps = _most_steps(full)
    lines = SHORT_LINES if full.corrects and full.target >= SPARSE else LINES
    run(
        fitted(full, steps, share, growth, corrector=corrector if full.corrects else 0.0)
        for growth in GROWTHS
        for share, corrector in lines
    )
    for vary in (_growths, _shares, _correctors, _fewer_steps, _coarse) if tried else ():
        run(vary(full, max(tried.values(), key=lambda candidate: candidate.psnr).choice))
    return list(tried.values())


def fitted(
    full: Full,
    steps: int,
    share: float,
    growth: float,
    coarse: Mapping[int, int] | None = None,
    corrector: float = 0.0,
) -> Choice | None:
    """With as many steps computed at p as the time allows beside the coarse ones; None where they are not two, or all."""
    coarse, costs = coarse or {}, full.costs
    some = sum(coarse.values())
    afford = full.afford - sum(count * costs[scale] for scale, count in coarse.items())
    fine = computed_in_time(steps - some, afford, costs[1], costs[0])
    if fine < 2 or fine + some >= steps:
        return None
    return forecasts(steps, fine + some, share, growth, coarse, corrector)


def _most_steps(full: Full) -> int:
    """The full run's, or where skipped steps alone would take up the time, as many as leave enough for two others."""
    return next((steps for steps in range(full.steps, 2, -1) if fitted(full, steps, 0.0, 1.0)), full.steps)


def faster(choice: Choice, costs: Mapping[int, float]) -> Choice | None:
    """The next cheaper one: a step less is computed, or at two of them one less is forecast; None where there is none."""
    computed, coarse = choice.computed, choice.coarse

    def like(steps: int, computed: int, coarse: Mapping[int, int]) -> Choice:
        return forecasts(
            steps, computed, choice.forecast, choice.settings["growth"], coarse, choice.corrector
        )

    options = [
        like(choice.steps, computed - 1, coarse | {scale: count - 1}) for scale, count in coarse.items()
    ]
    if computed - sum(coarse.values()) > 2:
        options.append(like(choice.steps, computed - 1, coarse))
    if not options and choice.steps - 1 > computed:
        options.append(like(choice.steps - 1, computed, {}))
    options = [option for option in options if cost(option, costs) < cost(choice, costs)]
    return max(options, key=lambda option: cost(option, costs)) if options else None


def _growths(full: Full, best: Choice) -> Found:
    """Gaps that grow less, and more."""
    growth = best.settings["growth"]
    return [_with(full, best, growth=near) for near in (growth - NEAR, growth + NEAR)]


def _shares(full: Full, best: Choice) -> Found:
    """Less of the line, and more."""
    near = (best.forecast - NEAR, best.forecast + NEAR)
    return [_with(full, best, share=share) for share in near if 0 <= share <= 1]


def _correctors(full: Full, best: Choice) -> Found:
    """Half of what was corrected; half of it all, where nothing was."""
    return [_with(full, best, corrector=0.5)] if full.corrects else []


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
    full: Full,
    best: Choice,
    steps: int | None = None,
    share: float | None = None,
    growth: float | None = None,
    coarse: Mapping[int, int] | None = None,
    corrector: float | None = None,
) -> Choice | None:
    """The best so far with something else, and as many steps computed as the time allows then."""
    return fitted(
        full,
        best.steps if steps is None else steps,
        best.forecast if share is None else share,
        best.settings["growth"] if growth is None else growth,
        coarse,
        best.corrector if corrector is None else corrector,
    )
