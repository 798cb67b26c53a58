"""Runs of a pipeline for a calibration: the same calls and noise each time, on one clock."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..coarse import Adapter
from ..runtime import patch
from ..runtime.denoisers import find_parts
from ..strategies import as_strategy
from .pictures import as_uint8

REPETITIONS = 4
"""So many warm steps of each size are timed, at least."""

YARDSTICK = 3
"""So many steps at p tell how fast the machine was during a run."""


@dataclass(frozen=True)
class Measured:
    """One call: pictures uint8 [n, …, H, W, 3] (None where none were asked for) and what its steps did.

    seconds: of all steps; whole: of the call, with text encoders and decoder. steps: as in the report.
    """

    pictures: np.ndarray | None
    seconds: float
    whole: float
    steps: list[dict[str, Any]]
    grid: tuple[int, int, int]

    @property
    def scales(self) -> list[int]:
        """The size of each step."""
        return [step["scale"] for step in self.steps]

    @property
    def fine_seconds(self) -> float | None:
        """Of this run's own step at p, the median; None where too few tell."""
        fine = [step["seconds"] for step in self.steps if step["scale"] == 1]
        return statistics.median(fine) if len(fine) >= YARDSTICK else None


def times_faster(done: Measured, full: Measured) -> float:
    """How many times as fast as `full` a run was, with each of the two in units of its own steps at p.

    A machine's speed wanders from run to run, here by a twentieth and more; within a run much less. Where one of them
    has too few steps at p to tell, it is the plain ratio of their seconds. What a schedule adds to its own steps at p
    cancels out, so this is for schedules that look at nothing (watching the blocks is a subtraction a step).
    """
    own, whole = done.fine_seconds, full.fine_seconds
    return full.seconds / done.seconds * (own / whole if own and whole else 1.0)


class Meter:
    """Calls a pipeline as it is told; the pipeline is unpatched between two runs.

    Args:
        calls: the arguments of each call, without those that the meter sets: num_inference_steps, generator,
            output_type.
        clock: seconds; on a GPU it has to wait for the device.
        ran: called after each run.
    """

    def __init__(
        self,
        pipe: Any,
        adapter: Mapping[str, Adapter] | None,
        calls: Sequence[dict[str, Any]],
        scales: Sequence[int],
        quantile: float,
        seed: int,
        clock: Callable[[], float],
        ran: Callable[[], None],
    ) -> None:
        self.pipe, self.adapter, self.calls = pipe, adapter, list(calls)
        self.scales, self.quantile = tuple(scales), quantile
        self._seed, self._clock, self._ran = seed, clock, ran

    def run(
        self,
        number: int,
        schedule: Any,
        steps: int | None,
        *,
        pictures: bool = True,
    ) -> Measured:
        """Call `number` with `schedule` as for `patch`; steps: num_inference_steps, None: the call's own default."""
        arguments = dict(self.calls[number])
        arguments["generator"] = torch.Generator().manual_seed(self._seed + number)
        arguments["output_type"] = "np" if pictures else "latent"
        if steps is not None:
            arguments["num_inference_steps"] = steps
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="ddit_ext")
            handle = patch(
                self.pipe,
                self.adapter,
                schedule=schedule,
            )
            handle.time_by(self._clock)
            try:
                started = self._clock()
                output = self.pipe(**arguments)
                whole = self._clock() - started
            finally:
                handle.unpatch()
        report = handle.report().to_dict()
        if not report["steps"]:
            raise ValueError("pipe: the call did no denoising step")
        self._ran()
        measured = Measured(
            as_uint8(output) if pictures else None,
            sum(step["seconds"] for step in report["steps"]),
            whole,
            report["steps"],
            report["grid"],
        )
        # What is tried next follows from these, and ranks that share the tokens have to try the same.
        ranks = find_parts(self.pipe)[0].family.ranks
        return measured if ranks is None else ranks.agreed(lambda: measured)

    def step_seconds(self, steps: int) -> dict[int, float]:
        """{scale: seconds of a step}: the median of warm steps, sizes taking turns inside runs of `steps`."""
        times: dict[int, list[float]] = {scale: [] for scale in self.scales}
        cold = set(self.scales)
        turn = 0
        while min(map(len, times.values())) < REPETITIONS:
            done = self.run(0, as_strategy(Turns(self.scales, turn), self.scales), steps, pictures=False)
            turn += len(done.steps)
            for step in done.steps:
                if step["scale"] in cold:
                    cold.discard(step["scale"])  # the first step of a size makes its weights ready
                else:
                    times[step["scale"]].append(step["seconds"])
        return {scale: statistics.median(taken) for scale, taken in times.items()}


class Turns:
    """Schedule: each size in turn, going on from run to run."""

    def __init__(self, scales: Sequence[int], begin: int) -> None:
        self._scales, self._begin = tuple(scales), begin

    def __call__(self, step: int) -> int:
        return self._scales[(self._begin + step) % len(self._scales)]


@contextmanager
def quiet(pipe: Any) -> Iterator[None]:
    """Inside, the pipeline shows no progress bar of its own."""
    missing = object()
    before = pipe.__dict__.get("_progress_bar_config", missing)
    pipe._progress_bar_config = {"disable": True}
    try:
        yield
    finally:
        if before is missing:
            del pipe._progress_bar_config
        else:
            pipe._progress_bar_config = before
