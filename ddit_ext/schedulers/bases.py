"""Which samplers ForecastScheduler can wrap, and the class that makes it look like each."""

from __future__ import annotations

import functools
import inspect
import types
from typing import Any

import torch
from diffusers import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

METHODS = ("set_timesteps", "step")
MULTISTEP = (UniPCMultistepScheduler, DPMSolverMultistepScheduler, DEISMultistepScheduler)
_WRAPPED = "FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, DPMSolverMultistepScheduler and DEISMultistepScheduler"


def check(scheduler: Any) -> None:
    """Raise where a sampler has no deterministic flow-matching steps that a forecast can bridge.

    Raises:
        TypeError: another kind of sampler. ValueError: one of a kind that is meant, with settings that are not.
    """
    _check_kind(scheduler)
    for name in METHODS:
        if name in vars(scheduler) and not is_method_of(scheduler, vars(scheduler)[name]):
            raise ValueError(
                f"ForecastScheduler: this {type(scheduler).__name__} has a {name} of its own, which a copy can't take over: "
                "it would go on with the original. Delete it, or define it in a subclass."
            )


def _check_kind(scheduler: Any) -> None:
    name, config = type(scheduler).__name__, getattr(scheduler, "config", {})
    if getattr(scheduler, "order", 1) != 1:
        raise TypeError(
            f"ForecastScheduler: {name} calls the model {scheduler.order} times a step, which a forecast over steps "
            f"can't follow. Use one of {_WRAPPED}."
        )
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        if config.get("stochastic_sampling"):
            raise ValueError(
                f"ForecastScheduler: {name} has stochastic_sampling=True, which draws noise at every step. "
                "Set it to False."
            )
        return
    if not isinstance(scheduler, MULTISTEP):
        fix = " Give its scheduler." if hasattr(scheduler, "scheduler") else ""
        raise TypeError(f"ForecastScheduler: expected a flow-matching sampler ({_WRAPPED}), got {name}.{fix}")
    if config.get("prediction_type") != "flow_prediction" or not config.get("use_flow_sigmas"):
        raise ValueError(
            f"ForecastScheduler: {name} must have prediction_type='flow_prediction' and use_flow_sigmas=True, got "
            f"{config.get('prediction_type')!r} and {config.get('use_flow_sigmas')!r}."
        )
    if str(config.get("algorithm_type", "")).startswith("sde"):
        raise ValueError(
            f"ForecastScheduler: {name} has algorithm_type={config['algorithm_type']!r}, which draws noise at every "
            "step. Use 'dpmsolver++'."
        )


def is_method_of(scheduler: Any, value: Any) -> bool:
    """Whether an attribute is a method that is bound to the sampler itself, as it can be to a copy."""
    return isinstance(value, types.MethodType) and value.__self__ is scheduler


def in_closed_form(scheduler: Any) -> bool:
    """Whether a sampler's steps are diffusers' Euler steps, not a subclass's or its own."""
    step = vars(scheduler).get("step", getattr(type(scheduler), "step", None))
    return getattr(step, "__func__", step) is FlowMatchEulerDiscreteScheduler.step


def dtype_of_step(scheduler: Any, output: torch.Tensor, sample: torch.Tensor) -> torch.dtype:
    """The type of the sample that the sampler's own step returns."""
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return output.dtype
    if isinstance(scheduler, UniPCMultistepScheduler):
        return sample.dtype
    return torch.promote_types(output.dtype, sample.dtype)


def forget_steps(scheduler: Any) -> None:
    """Drop what a multistep sampler keeps of the steps that it took, as its set_timesteps does."""
    if isinstance(scheduler, MULTISTEP):
        scheduler.model_outputs = [None] * scheduler.config.solver_order
        scheduler.lower_order_nums = 0
    if isinstance(scheduler, UniPCMultistepScheduler):
        scheduler.last_sample = None


def plain_class(cls: type) -> type:
    """The class that a sampler has without being watched by a patch, which gives it a subclass for that time."""
    return getattr(cls, "_ddit_plain", cls)


@functools.cache
def class_like(forecast: type, base: type, named: type) -> type:
    """`forecast` as a subclass of a sampler's class too: pipelines ask isinstance and inspect.signature.

    Everything that only the sampler's class has is read from, and written to, the wrapped sampler.
    named: the class whose name and module it has, which diffusers writes into a saved pipeline's model_index.json.
    """
    own = {name for cls in forecast.__mro__ for name in vars(cls)}
    body: dict[str, Any] = {
        name: _delegate(name)
        for cls in base.__mro__
        for name in vars(cls)
        if name not in own and not name.startswith("__")
    }
    for name in METHODS:
        body[name] = _with_signature(getattr(forecast, name), getattr(base, name))
    body |= {
        "__module__": named.__module__,
        "__doc__": forecast.__doc__,
        "__qualname__": named.__qualname__,
    }
    return type(named.__name__, (forecast, base), body)


def _delegate(name: str) -> property:
    return property(
        lambda self: getattr(self.base, name), lambda self, value: setattr(self.base, name, value)
    )


def _with_signature(own: Any, asked: Any) -> Any:
    signature = inspect.signature(asked)

    @functools.wraps(own)
    def method(*args, **kwargs):
        given = dict(signature.bind(*args, **kwargs).arguments)
        return own(**given | given.pop("kwargs", {}))

    method.__signature__ = signature
    return method
