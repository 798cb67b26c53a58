"""Schedulers in diffusers' own form: `ForecastScheduler`, fewer model calls for any flow-matching pipeline."""

# diffusers looks for the base class in the module that a saved pipeline names for its sampler.
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from .forecast import ForecastScheduler
from .run import ComputedStep

__all__ = ["ComputedStep", "ForecastScheduler", "SchedulerMixin"]
