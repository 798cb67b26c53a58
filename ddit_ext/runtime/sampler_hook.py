"""The patch of a forecast whose computed steps are all full-size: it only writes down what the sampler does.

It needs nothing of a model family, so it serves every pipeline with a flow-matching sampler.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from ..families import Family
from ..reports.report import RunRecord, StepRecord
from ..schedulers import ForecastScheduler
from ..strategies import Strategy
from .base_hook import Hook
from .forecast_sampler import ForecastSampler, is_over, next_sigma
from .run_check import RunCheck
from .sampler_watch import SamplerWatch
from .step_clock import Marks, StepClock


@dataclass(frozen=True)
class Watched:
    """A denoiser of any family; family: None where it is not known."""

    module: nn.Module
    family: Family | None


class Notes:
    """What is written down of the run of one sampler."""

    def __init__(self, timesteps: Tensor, record: RunRecord, marks: Marks) -> None:
        self.timesteps, self.record = timesteps, record
        self.clock = StepClock(marks)
        self.open = False  # whether a step is under way
        self.started: Any = None
        self.ended: Any = None


class SamplerHook(Hook):
    """Watches ForecastSchedulers; where the family of a transformer is known, tokens are counted, too."""

    def __init__(
        self,
        pipe: Any,
        parts: Sequence[Watched],
        strategy: Strategy,
        sampler: ForecastSampler,
        check: RunCheck | None,
    ) -> None:
        super().__init__(parts, strategy, sampler, check)
        self.lock = nullcontext()  # no call is changed
        self._notes: WeakKeyDictionary[Any, Notes] = WeakKeyDictionary()
        modules = [part.module for part in parts]
        self.watch = SamplerWatch(
            pipe, False, lambda run: None, modules=modules, seen=self._stepped, exchanged=self.exchanged
        )

    def begin_call(self, changes: Any, part: Watched, args: tuple, kwargs: dict[str, Any]) -> None:
        """A call of a transformer begins; it is made as it is."""
        with self.watch.lock:
            scheduler, by_pipeline = self.watch.caller()
            if scheduler is None:
                scheduler = self.sampler.scheduler
            if not self.forecasts(scheduler):
                return
            over = is_over(scheduler)
            line = self.watch.follow(scheduler)
            if line is not None and by_pipeline:
                line.claim(scheduler, over)
            if over:
                if by_pipeline or self.watch.given():
                    self.warn(None, "nothing is forecast: the pipeline's sampler takes no part in this run")
                return
            notes = self._notes.get(scheduler)
            timesteps = scheduler.timesteps.data
            # Without a step so far a call begins a run, unless it is guidance's second one.
            second = notes is not None and notes.open and notes.timesteps.data_ptr() == timesteps.data_ptr()
            if notes is None or not (scheduler.computed or second):
                notes = self._begin_run(scheduler, timesteps, part, args, kwargs)
            if not notes.open:
                record = notes.record
                notes.open = True
                notes.started = notes.ended if record.steps else self.marks.mark()
                samples = _samples(args, kwargs)
                sigma = next_sigma(scheduler)
                record.steps.append(
                    StepRecord(len(record.steps), sigma, None, 1, [1] * samples, record.fine_tokens)
                )

    def _stepped(self, scheduler: Any) -> None:
        notes = self._notes.get(scheduler)
        if notes is None or not notes.open:
            return  # a sampler's step without a call of the transformer
        notes.ended = self.marks.mark()
        # A loop that cuts the timesteps says only by its first step where it begins.
        notes.record.steps[-1].noise_level = scheduler.computed[-1].sigma
        notes.clock.lasted(notes.record.steps[-1], notes.started, notes.ended, over=True)
        over = is_over(scheduler)
        if over:
            self.watch.follow(scheduler).owner = None
        notes.clock.read(wait=over)
        notes.open = False
        self.add_forecast_steps(scheduler, notes.record)

    def _begin_run(
        self,
        scheduler: ForecastScheduler,
        timesteps: Tensor,
        part: Watched,
        args: tuple,
        kwargs: dict[str, Any],
    ) -> Notes:
        self.watch.follow(scheduler)
        record = RunRecord.of(self.strategy)
        if part.family is not None:
            record.count_tokens(part.family, part.family.bind(args, kwargs))
        self.record = record
        notes = self._notes[scheduler] = Notes(timesteps, record, self.marks)
        self.compare(record, part.module, scheduler, 0, _samples(args, kwargs))
        return notes


def _samples(args: tuple, kwargs: dict[str, Any]) -> int:
    """Rows of the first tensor of a call."""
    tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.ndim)
    first = next(tensors, None)
    return 1 if first is None else len(first)
