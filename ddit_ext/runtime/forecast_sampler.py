"""A ForecastScheduler in the place of a pipeline's own sampler, for `patch(pipe, schedule=Forecast(...))`."""

from __future__ import annotations

import weakref
from typing import Any

from ..reports.report import StepRecord
from ..schedulers import ForecastScheduler
from ..strategies import SKIP


class ForecastSampler:
    """Puts the sampler into the pipeline and takes it out again.

    settings: of `ForecastScheduler.from_scheduler`, which raises for a sampler that can't be wrapped.
    """

    def __init__(self, pipe: Any, settings: dict[str, Any]) -> None:
        self._pipe = weakref.ref(pipe)
        self._own = pipe.scheduler
        self.scheduler = ForecastScheduler.from_scheduler(pipe.scheduler, **settings)

    def install(self) -> None:
        """From now on the pipeline samples with it."""
        self._pipe().scheduler = self.scheduler

    def remove(self) -> None:
        """The pipeline has its own sampler again, unless the user has put another one there."""
        if self.in_place:
            self._pipe().scheduler = self._own

    @property
    def in_place(self) -> bool:
        """Whether the pipeline still samples with it."""
        pipe = self._pipe()
        return pipe is not None and pipe.scheduler is self.scheduler


def total_steps(scheduler: ForecastScheduler) -> int:
    """Steps of its run under way, as the pipeline asked for them."""
    return sum(call.levels for call in scheduler.plan.calls)


def next_sigma(scheduler: ForecastScheduler) -> float:
    """Sigma of its next computed step."""
    index = scheduler.step_index
    return float(scheduler.sigmas[(scheduler.begin_index or 0) if index is None else index])


def forecast_steps(scheduler: ForecastScheduler, first: int, samples: int) -> list[StepRecord]:
    """The steps that its last computed one was followed by; the first of them is number `first` of the run."""
    done = scheduler.computed[-1]
    sigmas = scheduler.base.sigmas[done.index + 1 : done.index + done.levels].tolist()
    return [
        StepRecord(first + place, sigma, None, SKIP, [SKIP] * samples, 0)
        for place, sigma in enumerate(sigmas)
    ]
