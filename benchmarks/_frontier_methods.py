"""What frontier.py compares, by the lines of its picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from _caches import magnitude_ratios, settings
from _runs import Method, batches
from _solvers import (
    SOLVERS,
    Rule,
    Solver,
    growing,
    hicache,
    meancache,
    spectrum,
)

import ddit_ext
from ddit_ext import embedded

FULL = Method("all 28 steps", 28)
GROWTH = 1.75  # of places that all methods but their own share
OURS_RUN, OURS_EXACT = "ForecastScheduler, target run", "ForecastScheduler, target exact"
FEWER = "fewer steps"
CALIBRATION_SEED = 8_000_000


@dataclass(frozen=True)
class Entry:
    """A method, the line it is a point of, and the model calls that were asked for (None: the method decides)."""

    line: str
    method: Method
    calls: int | None = None


def entries(model: embedded.Embedded, calls: list[int]) -> list[Entry]:
    """All methods, the full run first and what matters most next."""
    pipe = model.pipeline
    own_name = "Euler" if "Flux" in type(pipe).__name__ else "UniPC"
    found = [Entry("full", FULL, FULL.steps)]
    for count in calls:
        for line, target in ((OURS_RUN, "run"), (OURS_EXACT, "exact")):
            found.append(Entry(line, _scheduled(line, count, _forecast(count, target)), count))
    for count in calls:
        found.append(Entry(FEWER, Method(f"{FEWER}, {count}", count), count))
    found += [placed("UniPC", count) for count in calls]
    found += cache_dit_entries(pipe, calls)
    for solver in ("DPM-Solver++ 2M", "DEIS", "Euler", "Heun"):
        found += [placed(solver, count) for count in calls]
    found += _published(calls, own_name)
    if own_name == "Euler":
        found += _meancache(calls) + _larger_patches(model, calls) + _caches(model)
    for solver in SOLVERS:
        if solver != own_name:
            found += [_own_steps(solver, count) for count in calls]
    return found


def placed(solver: str, count: int) -> Entry:
    """Where ours would lie, at growth 1.75."""
    line = f"{solver}, placed"
    places = growing(FULL.steps, _steps(solver, count), GROWTH)
    return Entry(line, _scheduled(line, count, _solver(solver, places)), count)


def _own_steps(solver: str, count: int) -> Entry:
    line = f"{solver}, own steps"
    method = Method(f"{line}, {count}", _steps(solver, count), scheduler=_solver(solver))
    return Entry(line, method, count)


def _steps(solver: str, calls: int) -> int:
    """Heun calls the model twice a step, but the last."""
    return (calls + 1) // 2 if solver == "Heun" else calls


def _scheduled(line: str, count: int, make: Callable[[Any], Any]) -> Method:
    return Method(f"{line}, {count}", FULL.steps, scheduler=make)


def _forecast(calls: int, target: str) -> Callable[[Any], Any]:
    return lambda own: ddit_ext.ForecastScheduler.from_scheduler(own, calls=calls, target=target)


def _solver(name: str, pick: list[int] | None = None, rule: Rule | None = None) -> Callable[[Any], Any]:
    return lambda own: Solver(own, name, pick, rule)


def _published(calls: list[int], own_name: str) -> list[Entry]:
    """Spectrum and HiCache from their formulas, on the model's output; the pipeline's sampler goes through the gaps."""
    found = []
    for count in calls:
        even = [round(FULL.steps * k / count) for k in range(count)]
        own, shared = growing(FULL.steps, count, 2.0), growing(FULL.steps, count, GROWTH)
        for line, places, rule in (
            ("Spectrum", own, spectrum()),
            ("Spectrum, half a line", own, spectrum(mix=0.5)),
            ("HiCache, even gaps", even, hicache()),
            ("HiCache, placed", shared, hicache()),
        ):
            found.append(Entry(line, _scheduled(line, count, _solver(own_name, places, rule)), count))
    return found


def _meancache(calls: list[int]) -> list[Entry]:
    """MeanCache at the places and with the spans that studies/meancache_places.py found on other prompts."""
    line = "MeanCache, own places"
    plans = {count: _MEANCACHE[count] for count in calls if count in _MEANCACHE}
    return [
        Entry(line, _scheduled(line, count, _solver("Euler", list(spans), meancache(spans))), count)
        for count, spans in plans.items()
    ]


_MEANCACHE: dict[int, dict[int, int]] = {
    15: {0: 1, 1: 1, 2: 1, 3: 2, 5: 1, 6: 2, 8: 2, 10: 3, 12: 2, 14: 3, 17: 3, 20: 4, 23: 4, 25: 3, 27: 1},
    11: {0: 1, 1: 1, 2: 2, 4: 3, 6: 2, 9: 3, 12: 4, 16: 4, 21: 4, 25: 3, 27: 1},
    9: {0: 1, 1: 1, 2: 2, 4: 3, 7: 3, 10: 4, 14: 4, 19: 4, 25: 3},
    7: {0: 1, 1: 1, 2: 2, 4: 3, 8: 3, 14: 4, 21: 5},
}
"""Calls -> each call's step, and K in the gap after it."""


def _larger_patches(model: embedded.Embedded, calls: list[int]) -> list[Entry]:
    """Every step with the adapter and sizes by content, at the time of so many calls."""
    line = "larger patches, dynamic"
    return [
        Entry(
            line,
            Method(
                f"{line}, {count}",
                FULL.steps,
                {"adapter": model.adapter, "schedule": ddit_ext.Budget(FULL.steps / count)},
            ),
        )
        for count in calls
        if count > FULL.steps // 3  # more than three times the speed is out of its reach
    ]


def _caches(model: embedded.Embedded) -> list[Entry]:
    """diffusers' caches."""
    prompts = model.reference(4, seed=CALIBRATION_SEED)[1]
    ratios = magnitude_ratios(model.pipeline, batches(model.pipeline, prompts, 4, seed=14), FULL.steps)
    return [
        Entry(f"diffusers' {name}", Method(f"diffusers' {name}, {setting}", FULL.steps, cache=factory))
        for name, made in settings(ratios).items()
        for setting, factory in made.items()
    ]


def cache_dit_entries(pipe: Any, calls: list[int]) -> list[Entry]:
    """cache-dit's DBCache with its calibrators: by thresholds, by its masks of 28 steps, and where ours are computed."""
    try:
        import cache_dit
    except ImportError:
        print("cache_dit is not installed: left out")
        return []
    guided = "Wan" in type(pipe).__name__

    @contextmanager
    def around(calibrator: Any, told: dict[str, Any]) -> Iterator[None]:
        told = {"Fn_compute_blocks": 1, "num_inference_steps": FULL.steps, "max_warmup_steps": 4} | told
        if guided:
            told["enable_separate_cfg"] = True
        config = cache_dit.DBCacheConfig(**told)
        before = dict(vars(pipe.transformer))
        cache_dit.enable_cache(pipe.transformer, cache_config=config, calibrator_config=calibrator)
        try:
            yield
        finally:
            cache_dit.disable_cache(pipe.transformer)
            vars(pipe.transformer).clear()  # its forward would stay
            vars(pipe.transformer).update(before)

    def entry(
        line: str, setting: Any, calibrator: Callable[[], Any], told: dict[str, Any], calls: int | None = None
    ) -> Entry:
        method = Method(f"{line}, {setting}", FULL.steps, around=lambda _: around(calibrator(), told))
        return Entry(line, method, calls)

    calibrators = {
        "TaylorSeer": lambda: cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1),
        "DMD": cache_dit.DMDCalibratorConfig,
        "FoCa": cache_dit.FoCaCalibratorConfig,
    }
    found = []
    for name, calibrator in calibrators.items():
        for threshold in (0.08, 0.16, 0.3):
            line = f"cache-dit, {name} by threshold"
            found.append(entry(line, f"{threshold:g}", calibrator, {"residual_diff_threshold": threshold}))
    masks = {policy: cache_dit.steps_mask(total_steps=FULL.steps, mask_policy=policy) for policy in _POLICIES}
    for policy, mask in masks.items():
        found.append(entry("cache-dit, its masks", policy, calibrators["TaylorSeer"], _masked(mask)))
    for count in calls:
        places = growing(FULL.steps, count, GROWTH)
        mask = [int(step in places) for step in range(FULL.steps)]
        for name, calibrator in calibrators.items():
            line = "cache-dit, placed" if name == "TaylorSeer" else f"cache-dit, {name}, placed"
            found.append(entry(line, count, calibrator, _masked(mask), count))
    return found


_POLICIES = ("slow", "medium", "fast", "ultra")


def _masked(mask: list[int]) -> dict[str, Any]:
    return {"steps_computation_mask": mask, "steps_computation_policy": "static"}
