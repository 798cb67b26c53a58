"""Whole runs of a pipeline: FLUX's 28 steps end to end, full and with each way to spend less on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from _runs import patched
from _timing import wall_clock

from .cases import Case
from .part import Part

STEPS = 28
CALLS = 11
ROUNDS = 2
ENOUGH_S = 10.0  # left for what comes after, else a way is left out


def ways(tiny: bool, coarse: tuple[int, ...]) -> dict[str, dict[str, Any] | None]:
    """What `patch` is told, by name; None: not patched. What matters most first."""
    from ddit_ext import Forecast

    calls = 3 if tiny else CALLS
    found: dict[str, dict[str, Any] | None] = {"full": None}
    found |= {f"{scale}p at every step": {"schedule": scale} for scale in coarse}
    found["dynamic"] = {"scales": (1, *coarse), "threshold": 0.01}
    found[f"Forecast, {calls} calls"] = {"schedule": Forecast(calls=calls)}
    return found


def measure(part: Part, case: Case, label: str, coarse: tuple[int, ...]) -> None:
    """Each way: the fastest of ROUNDS runs after one that makes ready, its share of the full run, and its steps.

    Ways that there is no time for are left out, the last first. What is found is written after every run.
    """
    pipe = case.model.pipeline(case.transformer)
    pipe.set_progress_bar_config(disable=True)
    call = case.model.pipeline_call(case.model, case.arguments)
    steps = 5 if part.tiny else STEPS
    entry: dict[str, Any] = {"steps": steps, "ways": {}}
    part.results[case.model.name][label] = entry

    def run() -> Any:
        return pipe(**call, num_inference_steps=steps, output_type="latent")

    for name, settings in ways(part.tiny, coarse).items():
        slowest = max((found["first_s"] for found in entry["ways"].values()), default=0.0)
        if part.left() < (1 + ROUNDS) * slowest + (0 if part.tiny else ENOUGH_S):
            part.leave_out(f"{case.model.name}, {label}, {name}: no time was left")
            continue
        found: dict[str, Any] = {}
        try:
            with patched(pipe, settings) as handle:
                found["first_s"] = wall_clock(run)
                for _ in range(ROUNDS):
                    found["seconds"] = min(wall_clock(run), found.get("seconds", float("inf")))
                    entry["ways"][name] = found
                    part.save()
                found |= _report(handle)
        except Exception as error:
            part.problem(f"{case.model.name}, {label}, {name}: {type(error).__name__}: {str(error)[:300]}")
            continue
        full = entry["ways"].get("full", {}).get("seconds")
        found["speedup"] = full / found["seconds"] if full else None
        part.save()


def _report(handle: Any) -> Mapping[str, Any]:
    """How many steps were computed at which scale, as the library tells it."""
    if handle is None:
        return {}
    steps = handle.report().to_dict()["steps"]
    counted: dict[str, int] = {}
    for step in steps:
        name = str(step["scale"])
        counted[name] = counted.get(name, 0) + 1
    return {"scales": counted}
