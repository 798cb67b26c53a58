"""Runs of a pipeline for a calibration: the same calls and noise each time, on one clock."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from ..coarse import Adapter
from ..reports.outcome import warm_seconds
from ..runtime import patch
from ..runtime.denoisers import find_denoisers, known_family
from ..strategies import Strategy, as_strategy
from .pictures import as_uint8

REPETITIONS = 4
"""So many warm steps of each scale are timed, at least."""

YARDSTICK = 3
"""So many full-size steps tell how fast the machine was during a run."""


class Setting(NamedTuple):
    """What a run is made with. steps: num_inference_steps; None: the call's own default."""

    steps: int | None
    strategy: Strategy

    def words(self) -> str:
        """In a few words."""
        return self.strategy.words(self.steps)


@dataclass(frozen=True)
class Measured:
    """One call: pictures uint8 [n, …, H, W, 3] (None where none were asked for) and what its steps did.

    seconds: of all steps, without what the first takes longer than others. steps: as in the report.
    """

    pictures: np.ndarray | None
    seconds: float
    steps: list[dict[str, Any]]
    grid: tuple[int, int, int] | None

    @property
    def scales(self) -> list[int]:
        """The scale of each step."""
        return [step["scale"] for step in self.steps]

    @property
    def full_seconds(self) -> float | None:
        """This run's own full-size step, the median; None where too few tell."""
        full = [step["seconds"] for step in self.steps if step["scale"] == 1]
        return statistics.median(full) if len(full) >= YARDSTICK else None


def times_faster(done: Measured, full: Measured) -> float:
    """How many times as fast as `full` a run was, with each of the two in units of its own full-size steps.

    A machine's speed wanders from run to run, by a twentieth and more; within a run much less. Where one of them has
    too few full-size steps to tell, it is the plain ratio of their seconds. It is for strategies that look at
    nothing: what scores cost at full-size steps would cancel out.
    """
    own, whole = done.full_seconds, full.full_seconds
    return full.seconds / done.seconds * (own / whole if own and whole else 1.0)


class Runner:
    """Calls a pipeline as it is told; the pipeline is unpatched between two runs.

    Args:
        calls: the arguments of each call, without those that the runner sets: num_inference_steps, generator, output_type.
        clock: seconds; on a GPU it has to wait for the device.
        ran: called after each run.
    """

    def __init__(
        self,
        pipe: Any,
        adapter: Mapping[str, Adapter] | None,
        calls: Sequence[dict[str, Any]],
        seed: int,
        clock: Callable[[], float],
        ran: Callable[[], None],
    ) -> None:
        self.pipe, self.adapter, self.calls = pipe, adapter, list(calls)
        self._seed, self._clock, self._ran = seed, clock, ran

    def run(
        self, number: int, setting: Setting, *, pictures: bool = True, reference: bool = False
    ) -> Measured:
        """Call `number` by a setting. reference: others are compared with it; ValueError where pictures hold NaN."""
        arguments = dict(self.calls[number])
        arguments["generator"] = torch.Generator().manual_seed(self._seed + number)
        arguments["output_type"] = "np" if pictures else "latent"
        if setting.steps is not None:
            arguments["num_inference_steps"] = setting.steps
        adapter = self.adapter if setting.strategy.coarse else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="ddit_ext")
            with patch(self.pipe, adapter, schedule=setting.strategy) as handle:
                handle.time_by(self._clock)
                output = self.pipe(**arguments)
        report = handle.report().to_dict()
        if not report["steps"]:
            raise ValueError("pipe: the call did no denoising step")
        self._ran()
        seconds = warm_seconds([(step["scale"], step["seconds"]) for step in report["steps"]])
        drawn = as_uint8(output, reference) if pictures else None
        measured = Measured(drawn, seconds, report["steps"], report["grid"])
        # What is tried next follows from these, and ranks that share the tokens have to try the same.
        family = known_family(next(iter(find_denoisers(self.pipe).values())))
        return measured if family is None or family.ranks is None else family.ranks.agreed(lambda: measured)

    def step_seconds(self, steps: int, scales: Sequence[int]) -> dict[int, float]:
        """{scale: seconds of a step}: the median of warm steps, scales taking turns inside runs of `steps`."""
        times: dict[int, list[float]] = {scale: [] for scale in scales}
        cold = set(scales)
        turn = 0
        while min(map(len, times.values())) < REPETITIONS:
            turns = as_strategy(lambda step, first=turn: scales[(first + step) % len(scales)], scales)
            done = self.run(0, Setting(steps, turns), pictures=False)
            turn += len(done.steps)
            for step in done.steps:
                if step["scale"] in cold:
                    cold.discard(step["scale"])  # the first step of a scale makes its weights ready
                else:
                    times[step["scale"]].append(step["seconds"])
        return {scale: statistics.median(taken) for scale, taken in times.items()}


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
