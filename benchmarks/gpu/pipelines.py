"""Whole runs of a pipeline in the stage `steps`: what a patch costs, and what a skipped step takes."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from _runs import patched
from _timing import wall_clock

from .cases import FEWEST_ROUNDS, Case, timed
from .part import Part

RUN_STEPS = 6  # a dynamic schedule decides in the last three
NEXT_S = 30.0  # left for what comes after, else a candidate is left out
EVERY_OTHER = {"schedule": [1, 0] * (RUN_STEPS // 2), "forecast": 0.5}
PATCHED = {
    "schedule=1": {"schedule": 1},
    "every other step forecast": EVERY_OTHER,
    "dynamic, threshold=0": {"threshold": 0.0},
}
"""Runs of a pipeline beside the unpatched one."""


def measure(part: Part, case: Case) -> None:
    """Whole runs: unpatched and PATCHED, as many of these as there is time for."""
    pipe = case.model.pipeline(case.transformer)
    pipe.set_progress_bar_config(disable=True)
    call = case.model.pipeline_call(case.model, case.arguments)

    def once(settings: dict[str, Any] | None) -> float:
        with patched(pipe, settings):
            return wall_clock(lambda: pipe(**call, num_inference_steps=RUN_STEPS, output_type="latent"))

    seconds: dict[str, float] = {}
    candidates: dict[str, Any] = {}
    for name, settings in {"unpatched": None, **PATCHED}.items():
        needed = (len(seconds) + 1) * FEWEST_ROUNDS * max(seconds.values(), default=0.0)
        if part.left() < needed + (0 if part.tiny else NEXT_S):
            part.leave_out(f"{case.model.name}, {name}: no time was left")
            break
        try:
            once(settings)  # makes weights ready
            seconds[name] = once(settings)
        except (TypeError, NotImplementedError) as error:
            part.leave_out(f"{case.model.name}, {name}: not available: {error}")
        else:
            candidates[name] = settings
    if not candidates:
        return
    found = timed(part, candidates, 0.2, clock=once, once=sum(seconds.values()))
    part.results[case.model.name]["pipeline"] = {"steps": RUN_STEPS, **found}
    part.save()
    if EVERY_OTHER in candidates.values():
        from ddit_ext._machine import clock_of

        with patched(pipe, EVERY_OTHER) as handle:
            handle.time_by(clock_of(torch.device(part.device)))
            pipe(**call, num_inference_steps=RUN_STEPS, output_type="latent")
            steps = handle.report().to_dict()["steps"]
        skipped, computed = (
            statistics.median(step["seconds"] for step in steps[1:] if bool(step["scale"]) is wanted)
            for wanted in (False, True)
        )
        part.results[case.model.name]["skipped step over one at p"] = skipped / computed
        part.save()
