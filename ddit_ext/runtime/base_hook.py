"""What the hooks of all patches share: how they come between a transformer and its callers, warnings, the clock."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from ..reports.report import RunRecord
from ..schedulers import ForecastScheduler
from ..strategies import Strategy
from .forecast_sampler import ForecastSampler, forecast_steps, total_steps
from .patched_call import PatchedCall, install
from .run_check import RunCheck
from .sampler_watch import SamplerWatch
from .step_clock import HostMarks, Marks


class Hook:
    """Stands between the transformers of one pipeline and those who call them.

    parts: what `begin_call` is called with, one for each transformer; each has a `module`.
    sampler: of a forecast, which stands in the pipeline while the hook is installed. check: of a preset's runs.

    Attributes:
        marks: what steps are timed by.
        lock: held during a call.
        on_leave: gives what is called when the hook has stepped aside, or None.
        watch: of the samplers that the transformers' callers step with.
    """

    lock: AbstractContextManager[Any]
    watch: SamplerWatch

    def __init__(
        self,
        parts: Sequence[Any],
        strategy: Strategy,
        sampler: ForecastSampler | None,
        check: RunCheck | None,
    ) -> None:
        self.parts, self.strategy, self.sampler, self.check = parts, strategy, sampler, check
        self.marks: Marks = HostMarks()
        self._entries: list[PatchedCall] = []
        self.on_leave: Callable[[], Callable[[], None] | None] = lambda: None
        self._local = threading.local()
        self._last: RunRecord | None = None
        self._told: set[str] = set()

    @property
    def record(self) -> RunRecord | None:
        """The last run that this thread has begun, or else any; None without one."""
        return getattr(self._local, "record", self._last)

    @record.setter
    def record(self, record: RunRecord) -> None:
        self._last = self._local.record = record

    def install(self) -> None:
        """Come between each transformer, or what torch.compile made of it (then outside of the graph), and its callers."""
        for part in self.parts:
            self._entries += install(self, part)
        if self.sampler is not None:
            self.sampler.install()
            self.watch.follow(self.sampler.scheduler)

    def remove(self) -> None:
        """Everything as it was found, also the pipeline's sampler; RuntimeError in the middle of a forecast's run."""
        if self.sampler is not None:
            self.sampler.check_free()
        for entry in self._entries:
            entry.remove()
        self._entries = []
        self.parts = ()  # a handle that is kept for its report keeps no model
        self.watch.remove()
        if self.sampler is not None:
            self.sampler.remove()
        left = self.on_leave()
        if left is not None:
            left()

    def compare(
        self, record: RunRecord, transformer: nn.Module, scheduler: Any, total: int, samples: int
    ) -> None:
        """At a run's begin, with a preset: warn of what it was not made for."""
        if self.check is not None:
            record.target_speedup, record.full_steps = self.check.target_speedup, self.check.full_steps
            if isinstance(scheduler, ForecastScheduler):
                total = total_steps(scheduler)
            for text in self.check.differences(transformer, scheduler, total, record.grid, samples):
                self.warn(record, text)

    def forecasts(self, scheduler: Any) -> bool:
        """Whether a call belongs to the forecast that was asked for; a pipeline with a sampler of its own is told, once."""
        if self.sampler is None or isinstance(scheduler, ForecastScheduler):
            return True
        name = type(scheduler).__name__
        if name not in self._told:
            self._told.add(name)
            self.warn(
                None,
                f"nothing is forecast: the pipeline that calls has a {name} of its own; give it "
                "ForecastScheduler.from_scheduler(its scheduler, ...), or if it was put there after patch(), "
                "unpatch and patch again",
            )
        return False

    def exchanged(self, name: str) -> None:
        """A run begins on a model that was put into the pipeline after patch()."""
        calls = (
            "it is called as it is" if self.sampler is None else "its calls are as they are, forecasts go on"
        )
        self.warn(
            None,
            f"the pipeline's {name} is another one than was patched: {calls}, and its run is not reported; "
            "unpatch and patch again",
        )

    @staticmethod
    def warn(record: RunRecord | None, text: str) -> None:
        """Tell the user, once a run, and write it into the run's record."""
        if record is None or text not in record.warnings:
            if record is not None:
                record.warnings.append(text)
            warnings.warn(f"ddit_ext: {text}", stacklevel=2)

    @staticmethod
    def add_forecast_steps(scheduler: Any, record: RunRecord) -> None:
        """Write down the steps between the last one that `scheduler` computed and the next."""
        if isinstance(scheduler, ForecastScheduler):
            steps = forecast_steps(scheduler, len(record.steps), len(record.steps[-1].scales))
            record.steps += steps
            record.forecasts = record.forecasts or bool(steps)  # of a sampler of the user's own, too
