"""The methods that embedded_caches.py compares, by the lines they are points of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from _caches import Factory
from _lines_plot import STACKED
from _runs import Method
from _thresholds import both_ends
from ddit_ext._core import ForecastPlan
from embedded_frontier import SCALES

import ddit_ext
from ddit_ext import Budget, Fixed, Forecast, TeaCache, embedded
from ddit_ext.policies import TeaCachePolicy

FEWER, CALIBRATED = "fewer steps", "calibrated"
CACHES = "cache"
"""The group of methods that are diffusers' own, or stacked on ours: further lines, not ours."""


@dataclass(frozen=True)
class Entry:
    """A method, the line it is a point of, and about how much of the full run's time it takes."""

    line: str
    method: Method
    share: float
    group: str = "ours"


def steps_alone(steps: int, targets: Sequence[float]) -> list[Entry]:
    """Fixed p at fewer steps."""
    counts = sorted({max(1, round(steps / target)) for target in targets} - {steps}, reverse=True)
    return [Entry(FEWER, Method(f"fewer steps, {n}", n), n / steps) for n in counts]


def policies(
    model: embedded.Embedded, steps: int, seconds: dict[int, float], targets: Sequence[float]
) -> list[Entry]:
    """Sizes alone, at the full number of steps. A further policy is a further line here."""
    costs = [seconds[scale] / seconds[1] for scale in SCALES[1:]]
    entries = []
    for target in targets:
        made: dict[str, Any] = {"sizes, fine at both ends": both_ends(steps, seconds, target)}
        if target < 0.95 / costs[-1]:
            made["sizes, on a budget"] = Budget(target, SCALES, costs=costs)
        for line, schedule in made.items():
            if schedule is not None:
                told = {"adapter": model.adapter, "schedule": schedule}
                entries.append(Entry(line, Method(f"{line}, {target:g}x", steps, told), 1 / target))
    return entries


def skipping(model: embedded.Embedded, steps: int) -> list[Entry]:
    """TeaCache's rule, our policy: steps are skipped, or skipped and the others at 2p while little has changed."""
    entries = []
    for threshold, computed in ((0.07, 0.75), (0.1, 0.5), (0.15, 0.35), (0.2, 0.3), (0.3, 0.2)):
        told = {"schedule": TeaCache(threshold)}
        entries.append(
            Entry("TeaCache's rule", Method(f"TeaCache's rule, {threshold:g}", steps, told), computed)
        )
    for threshold, coarse in ((0.06, 0.12), (0.1, 0.2)):
        policy = TeaCachePolicy(threshold, SCALES[:2], (coarse,))
        method = Method(
            f"TeaCache's rule, {threshold:g}, at 2p below {coarse:g}",
            steps,
            {"adapter": model.adapter, "schedule": policy},
        )
        entries.append(Entry("TeaCache's rule" + STACKED, method, 0.3))
    return entries


def paper_stack(model: embedded.Embedded, steps: int, seconds: dict[int, float], stack: float) -> list[Entry]:
    """What the paper's headline stacks: sizes by scores of the latents, and TeaCache's rule over them."""
    costs = [seconds[scale] / seconds[1] for scale in SCALES[1:]]
    entries = []
    for threshold in (0.07, 0.15):
        sizes = Budget(stack, SCALES, costs=costs)
        told = {"adapter": model.adapter, "schedule": TeaCache(threshold, sizes=sizes)}
        method = Method(f"TeaCache's rule, {threshold:g}, on a budget, {stack:g}x", steps, told)
        entries.append(Entry("TeaCache's rule" + STACKED, method, 0.8 / stack))
    return entries


def forecasting(model: embedded.Embedded, steps: int) -> list[Entry]:
    """Forecasts between computed steps whose gaps grow, and corrected; with controls for each part of that.

    Controls: evenly spread, the whole line, the last output or the blocks' residual again in its place, and fewer steps
    where the computed ones are.
    """
    entries = []
    full = np.linspace(1, 1 / steps, steps)  # as FluxPipeline has them
    for share in (0.54, 0.39, 0.32, 0.25, 0.18):
        count = max(2, round(share * steps))
        for line, growth, slope, corrector in (
            ("forecast", None, None, None),
            ("forecast, no corrector", 1.75, 0.5, 0.0),
            ("forecast, whole line", 1.75, 1.0, 0.0),
            ("forecast: none, used again", 1.75, 0.0, 0.0),
            ("forecast: none, and corrector", 1.75, 0.0, 1.0),
            ("forecast, evenly", 1.0, 0.5, 1.0),
        ):
            told = {"schedule": Forecast(calls=count, growth=growth, slope=slope, corrector=corrector)}
            entries.append(Entry(line, Method(f"{line}, {count}", steps, told), count / steps))
        computed = ForecastPlan(np.linspace(1, 0, steps + 1).tolist(), count, growth=1.75).steps
        told = {"schedule": [int(step in computed) for step in range(steps)]}
        line = "residual, used again"
        entries.append(Entry(line, Method(f"{line}, {count}", steps, told), count / steps))
        places = tuple(full[computed].tolist())
        line = "fewer steps, growing"
        entries.append(Entry(line, Method(f"{line}, {count}", count, sigmas=places), count / steps))
    told = {"adapter": model.adapter, "schedule": late_coarse(steps)}
    return [
        *entries,
        Entry("forecast" + STACKED, Method("forecast, later computed steps at scale 2", steps, told), 0.25),
    ]


def late_coarse(steps: int) -> Forecast:
    """Eleven of 28 steps computed, of which the later half are at scale 2 but the last."""
    calls = max(2, round(0.39 * steps))
    full = calls // 2
    return Forecast(calls=calls, sizes=Fixed([1] * full + [2] * (calls - full - 1) + [1], stretch=True))


def both_together(model: embedded.Embedded, presets: Sequence[ddit_ext.Preset]) -> list[Entry]:
    """Presets: how many steps, and their sizes."""
    return [
        Entry(
            CALIBRATED,
            Method(
                f"calibrated, {preset.target_speedup:g}x",
                preset.steps,
                {"adapter": model.adapter, "preset": preset},
            ),
            1 / preset.target_speedup,
        )
        for preset in presets
    ]


def cached(
    model: embedded.Embedded,
    steps: int,
    seconds: dict[int, float],
    caches: dict[str, dict[str, Factory]],
    stack: float,
) -> list[Entry]:
    """Each cache alone at all its settings, and its careful ones on sizes of `stack` times the speed of p."""
    entries = [
        Entry(name, Method(f"{name}, {setting}", steps, cache=factory), 0.6, CACHES)
        for name, made in caches.items()
        for setting, factory in made.items()
    ]
    schedule = both_ends(steps, seconds, stack)
    if schedule is None:
        raise ValueError(f"--stack {stack:g}: steps at 2p are not fast enough for it")
    costs = [seconds[scale] / seconds[1] for scale in SCALES[1:]]
    fixed = {"adapter": model.adapter, "schedule": schedule}
    budget = Budget(stack, SCALES, costs=costs)
    for name, made in caches.items():
        for setting, factory in list(made.items())[:-1]:
            method = Method(f"{name}, {setting}, on fine at both ends, {stack:g}x", steps, fixed, factory)
            entries.append(Entry(name + STACKED, method, 0.8 / stack, CACHES))
    setting, factory = next(iter(caches["FirstBlockCache"].items()))
    told = {"adapter": model.adapter, "schedule": budget}
    method = Method(f"FirstBlockCache, {setting}, on a budget, {stack:g}x", steps, told, factory)
    return [*entries, Entry("FirstBlockCache" + STACKED, method, 0.8 / stack, CACHES)]
