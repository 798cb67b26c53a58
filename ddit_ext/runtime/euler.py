"""Samplers whose step is its length in σ times the model's output, and nothing else: some things hold for these alone."""

from __future__ import annotations

from typing import Any


def steps_by_euler(scheduler: Any) -> bool:
    """Whether a sampler is such a one."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    # The class itself: a subclass may step otherwise.
    return type(scheduler) is FlowMatchEulerDiscreteScheduler and not scheduler.config.stochastic_sampling


def check_euler(scheduler: Any, what: str) -> None:
    """ValueError for a sampler with other steps than plain Euler ones; what: the argument that needs them."""
    if not steps_by_euler(scheduler):
        stochastic = getattr(getattr(scheduler, "config", None), "stochastic_sampling", False)
        name = type(scheduler).__name__ + (" with stochastic_sampling" if stochastic else "")
        raise ValueError(
            f"{what} needs a sampler of plain Euler steps (FlowMatchEulerDiscreteScheduler itself, without "
            f"stochastic_sampling), the pipeline's is {name}: leave it out, or change pipe.scheduler"
        )
