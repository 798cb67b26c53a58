"""A ForecastScheduler in the place of a pipeline's own sampler, for `patch(pipe, schedule=Forecast(...))`."""

from __future__ import annotations

import weakref
from typing import Any

from ..reports.report import StepRecord
from ..schedulers import ForecastScheduler
from ..strategies import SKIP
from .callers import in_a_call

ALL_STEPS = {"speedup": 1.0, "slope": 0.0, "corrector": 0.0}
"""Settings of a ForecastScheduler that computes every step as the sampler it wraps does."""


class ForecastSampler:
    """Puts the sampler into the pipeline and takes it out again. What is saved meanwhile is the pipeline's own.

    settings: of `ForecastScheduler.from_scheduler`, which raises for a sampler that can't be wrapped.
    """

    def __init__(self, pipe: Any, settings: dict[str, Any]) -> None:
        self._pipe = weakref.ref(pipe)
        self._own = pipe.scheduler
        self.scheduler = ForecastScheduler.from_scheduler(pipe.scheduler, **settings)
        self.scheduler.stand_for(self._own)

    def install(self) -> None:
        """From now on the pipeline samples with it."""
        _put(self._pipe(), self.scheduler)

    def check_free(self) -> None:
        """RuntimeError in the middle of a run, of which the pipeline's own sampler knows nothing. A run that was left is none."""
        # Another method than the pipeline's call may hold a `with patch(...)` whose run an exception has ended.
        if not is_over(self.scheduler) and self.in_place and in_a_call(self.scheduler, "__call__"):
            raise RuntimeError(
                "unpatch: the pipeline is in the middle of a run, and its own sampler can't take over: unpatch when the "
                "run is over, or end it early with pipe._interrupt = True"
            )

    def remove(self) -> None:
        """The pipeline has its own sampler again, unless the user has put another one there.

        Pipelines that were made from it hold this one, which computes every step from their next run on. A copy of it
        that a request made before, as by copy.deepcopy, is the request's: it forecasts as long as it lives.
        """
        if self.in_place:
            _put(self._pipe(), self._own)
        self.scheduler.register_to_config(calls=None, **ALL_STEPS)

    @property
    def in_place(self) -> bool:
        """Whether the pipeline still samples with it."""
        pipe = self._pipe()
        return pipe is not None and pipe.scheduler is self.scheduler


def _put(pipe: Any, scheduler: Any) -> None:
    """Give a pipeline its sampler; diffusers' own way would write its class into what is saved as model_index.json."""
    object.__setattr__(pipe, "scheduler", scheduler)


def is_over(scheduler: ForecastScheduler) -> bool:
    """Whether all model calls of its run are made, or there was no run."""
    return scheduler.plan is None or len(scheduler.computed) >= len(scheduler.plan.calls)


def total_steps(scheduler: ForecastScheduler) -> int:
    """Steps of its run under way, as the pipeline asked for them."""
    return sum(call.levels for call in scheduler.plan.calls)


def next_sigma(scheduler: ForecastScheduler) -> float:
    """Sigma of its next computed step."""
    return scheduler.plan.calls[len(scheduler.computed)].sigma


def forecast_steps(scheduler: ForecastScheduler, first: int, samples: int) -> list[StepRecord]:
    """The steps that its last computed one was followed by; the first of them is number `first` of the run."""
    done = scheduler.computed[-1]
    sigmas = scheduler.base.sigmas[done.index + 1 : done.index + done.levels].tolist()
    return [
        StepRecord(first + place, sigma, None, SKIP, [SKIP] * samples, 0)
        for place, sigma in enumerate(sigmas)
    ]
