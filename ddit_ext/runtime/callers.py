"""Which pipeline calls a transformer: the sampler of a call is the one that the caller steps with.

Pipelines that share a transformer may each have a sampler of their own, made before or after the patch. None of that can
be seen from the transformer, so the stack is asked, as a debugger would: it takes about two microseconds.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from types import FrameType
from typing import Any

from torch import nn

from ..modules.compiled import unwrap

BETWEEN = frozenset({"torch", "ddit_ext", "accelerate", "diffusers", "contextlib", "functools"})
"""Packages whose functions may stand between a pipeline's method and the transformer. Any other one is the caller."""

DENOISERS = ("transformer", "transformer_2", "unet")
"""Components of pipelines that denoise. Wan 2.2 has two: one for high noise levels, one for the rest."""

OWNERS = ("self", "components")
"""What a method calls the object with the pipeline's parts; the second in diffusers' modular pipelines."""


def calling_pipeline(modules: Collection[nn.Module]) -> Any | None:
    """The object whose method calls one of `modules`, which it holds beside a scheduler; None for any other caller."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        for owner in _owners(frame):
            if _holds(owner, modules):
                return owner
        if frame.f_globals.get("__name__", "").partition(".")[0] not in BETWEEN:
            return None
        frame = frame.f_back
    return None


def in_a_call(scheduler: Any, method: str | None = None, besides: int | None = None) -> bool:
    """Whether a pipeline that samples with `scheduler` is in a method now, or in the one so named.

    It is looked for in all threads but `besides`.
    """
    for thread, frame in sys._current_frames().items():
        while frame is not None and thread != besides:
            if method in (None, frame.f_code.co_name):
                if any(_samples(owner, scheduler) for owner in _owners(frame)):
                    return True
            frame = frame.f_back
    return False


def _owners(frame: FrameType) -> list[Any]:
    """What a method was called on, as OWNERS name it."""
    arguments = frame.f_code.co_varnames[: frame.f_code.co_argcount]
    return [frame.f_locals.get(name) for name in OWNERS if name in arguments]


def _samples(owner: Any, scheduler: Any) -> bool:
    """Whether a pipeline has that sampler; objects of this library that know it, too, are none."""
    return getattr(owner, "scheduler", None) is scheduler and any(hasattr(owner, name) for name in DENOISERS)


def _holds(owner: Any, modules: Collection[nn.Module]) -> bool:
    if owner is None or isinstance(owner, nn.Module):
        return False
    held = [getattr(owner, name, None) for name in DENOISERS]
    held = [unwrap(module) for module in held if module is not None]
    mine = any(unwrap(module) is other for module in modules for other in held)
    return mine and callable(getattr(getattr(owner, "scheduler", None), "step", None))
