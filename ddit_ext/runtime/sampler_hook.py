"""The patch of a forecast whose computed steps are all full-size: it only writes down what the sampler does.

It needs nothing of a model family, so it serves every pipeline with a flow-matching sampler.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..families import Family
from ..reports.report import RunRecord, StepRecord
from ..strategies import Strategy
from .base_hook import Hook
from .forecast_sampler import ForecastSampler
from .run_check import RunCheck
from .step_watch import StepWatch


@dataclass(frozen=True)
class Watched:
    """A denoiser of any family; family: None where it is not known."""

    module: nn.Module
    family: Family | None


class SamplerHook(Hook):
    """Watches a ForecastScheduler; where the family of a transformer is known, tokens are counted, too."""

    def __init__(
        self,
        parts: Sequence[Watched],
        strategy: Strategy,
        sampler: ForecastSampler,
        check: RunCheck | None = None,
    ) -> None:
        super().__init__(sampler)
        self.record = None
        self.lock = nullcontext()  # no call is changed
        self._forecast = sampler
        self._parts = parts
        self._strategy, self._check = strategy, check
        self._timesteps: Tensor | None = None  # at the last call
        self._step: StepWatch | None = None
        self._open = False  # whether a step is under way
        self._started = self._ended = 0.0

    def install(self) -> None:
        """Put the sampler into the pipeline and watch it, and the calls of the transformers."""
        self.enter(self._parts)
        self._step = StepWatch(self._forecast.scheduler, self._stepped)

    def remove(self) -> None:
        """Everything as it was found."""
        if self._step is not None:
            self._step.remove()
        self.leave()

    def begin_call(self, changes: Any, part: Watched, args: tuple, kwargs: dict[str, Any]) -> None:
        """A call of a transformer begins; it is made as it is."""
        if not self._forecast.in_place:
            self.warn(
                "pipe.scheduler was replaced after patch(), so nothing is forecast: unpatch and patch again"
            )
            return
        scheduler = self._forecast.scheduler
        if scheduler.plan is None or len(scheduler.computed) == len(scheduler.timesteps):
            self.warn("nothing is forecast: the pipeline's sampler takes no part in this run")
            return
        if self._begins(scheduler):
            self._open = False
            self._begin_run(part, args, kwargs)
        if not self._open:
            self._open = True
            self._started = self._ended if self.record.steps else self.now()
            samples = _samples(args, kwargs)
            tokens = self.record.fine_tokens
            self.record.steps.append(
                StepRecord(len(self.record.steps), self._forecast.next_sigma, None, 1, [1] * samples, tokens)
            )

    def _begins(self, scheduler: Any) -> bool:
        """Whether a call is the first of a run."""
        before, self._timesteps = self._timesteps, scheduler.timesteps.data
        if self.record is None:
            return True
        if scheduler.computed:
            return False
        again = before is not None and before.data_ptr() == self._timesteps.data_ptr()
        return not (again and self._open)  # else it is guidance's second call

    def _stepped(self, scheduler: Any, args: tuple, kwargs: dict[str, Any], result: Any) -> None:
        if not self._open:
            return  # a sampler's step without a call of the transformer
        self._ended = self.now()
        self.record.steps[-1].seconds = self._ended - self._started
        self._open = False
        self.add_forecast_steps()

    def _begin_run(self, part: Watched, args: tuple, kwargs: dict[str, Any]) -> None:
        record = RunRecord.of(self._strategy)
        if part.family is not None:
            record.count_tokens(part.family, part.family.bind(args, kwargs))
        self.record = record
        if self._check is not None:
            record.target_speedup, record.full_steps = self._check.target_speedup, self._check.full_steps
            for text in self._check.differences(
                part.module,
                self._forecast.scheduler,
                self._forecast.total,
                record.grid,
                _samples(args, kwargs),
            ):
                self.warn(text)


def _samples(args: tuple, kwargs: dict[str, Any]) -> int:
    """Rows of the first tensor of a call."""
    tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.ndim)
    first = next(tensors, None)
    return 1 if first is None else len(first)
