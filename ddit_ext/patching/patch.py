"""patch() and unpatch(): argument checks, and nothing half done."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from os import PathLike
from typing import Any

from ..multiscale import Adapter
from .hook import PatchHook, find_hook
from .parts import find_parts, give_weights
from .policy import Dynamic, Fixed, Policy, Schedule
from .report import Report


class Handle:
    """What patch() returns: the way to the report and back."""

    def __init__(self, pipe: Any, hook: PatchHook) -> None:
        self._pipe = pipe
        self._hook = hook

    @property
    def pipe(self) -> Any:
        """The pipeline that was patched."""
        return self._pipe

    def report(self) -> Report:
        """What the last run did, or the one under way so far."""
        return Report(self._hook.record)

    def unpatch(self) -> None:
        """Leave pipeline and transformer as they were, bit for bit. Again is no error; the report stays."""
        self._hook.remove()


def patch(
    pipe: Any,
    adapter: str | PathLike | Adapter | Mapping[str, Any] | None = None,
    *,
    scales: Sequence[int] = (1, 2, 4),
    threshold: float | Sequence[float] = 1e-3,
    quantile: float = 0.4,
    schedule: Schedule = None,
    preset: Any = None,
    target_speedup: float | None = None,
    batch: str = "finest",
    protect: tuple[int, int] = (0, 0),
) -> Handle:
    """Make a diffusers FLUX or Wan pipeline choose the patch size of every denoising step.

    Args:
        pipe: a FLUX pipeline (text-to-image, img2img, inpaint, Fill, Kontext, Control, ControlNet) or a Wan
            pipeline (text-, image- and video-to-video, VACE, Animate; 2.1, and 2.2 with one or two transformers).
            Pipelines that share its transformer (`from_pipe`, `components`) share the patch.
        adapter: an Adapter, or the path of what a trainer wrote; None: training-free. For Wan 2.2's two
            transformers a folder with the subfolders `transformer` and `transformer_2`, or a mapping from
            these names.
        scales: sizes in base patches, 1 first, ascending.
        threshold: a score below it is coarse enough; one number, or one per scale above 1.
        quantile: in [0, 1], over the patches of a sample.
        schedule: None (dynamic), one size, a list of one size a step, or callable(step) -> size.
        batch: "finest": a batch takes the finest of its samples' sizes.
        protect: so many steps at the beginning and at the end of a run stay at size 1.

    Raises:
        TypeError, ValueError: an argument, by name, with what was expected and what came.
        RuntimeError: the pipeline, or one that shares its transformer, is already patched.
        NotImplementedError: a feature, by name.
    In each case the pipeline is as it was.
    """
    parts = find_parts(pipe)
    scales = _scales(scales)
    thresholds = _thresholds(threshold, len(scales) - 1)
    _number("quantile", quantile)
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile must be in [0, 1], got {quantile!r}")
    protect = _protect(protect)
    for name, value in (("preset", preset), ("target_speedup", target_speedup)):
        if value is not None:
            raise NotImplementedError(f"{name} is not supported yet: give threshold or schedule")
    if batch == "split":
        raise NotImplementedError("batch='split' is not supported yet: use batch='finest'")
    if batch != "finest":
        raise ValueError(f"batch must be 'finest' or 'split', got {batch!r}")
    if any(find_hook(part.module) is not None for part in parts):
        raise RuntimeError(
            "pipe is already patched (or shares its transformer with a pipeline that is): unpatch() it first"
        )
    policy: Policy
    if schedule is None:
        policy = Dynamic(scales, thresholds, protect)
    else:
        policy = Fixed(schedule, scales, protect)
    give_weights(parts, adapter, scales[1:], getattr(policy, "always_fine", False))
    hook = PatchHook(pipe, parts, policy, scales, thresholds, float(quantile))
    hook.install()
    return Handle(pipe, hook)


def unpatch(pipe: Any) -> None:
    """Take the patch off a pipeline (and off those that share its transformer); RuntimeError without one."""
    hooks = [hook for part in find_parts(pipe) if (hook := find_hook(part.module)) is not None]
    if not hooks:
        raise RuntimeError("pipe is not patched")
    for hook in hooks:
        hook.remove()


def _scales(scales: Any) -> tuple[int, ...]:
    expected = "scales must be distinct ascending whole numbers that begin with 1, such as (1, 2, 4)"
    if not isinstance(scales, Sequence) or isinstance(scales, str | bytes) or not scales:
        raise TypeError(f"{expected}; got {scales!r}")
    if any(not isinstance(scale, Integral) or isinstance(scale, bool) for scale in scales):
        raise TypeError(f"{expected}; got {scales!r}")
    checked = tuple(int(scale) for scale in scales)
    if checked[0] != 1 or list(checked) != sorted(set(checked)):
        raise ValueError(f"{expected}; got {scales!r}")
    return checked


def _thresholds(threshold: Any, count: int) -> tuple[float, ...]:
    if isinstance(threshold, Sequence) and not isinstance(threshold, str | bytes):
        if len(threshold) != count:
            raise ValueError(
                f"threshold must be one number, or {count}: one per scale above 1; got {len(threshold)}"
            )
        numbers = list(threshold)
    else:
        numbers = [threshold] * count
    for number in numbers:
        _number("threshold", number)
        if not number >= 0:
            raise ValueError(f"threshold must not be negative, got {number!r}")
    return tuple(float(number) for number in numbers)


def _number(name: str, value: Any) -> None:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if math.isnan(value):
        raise ValueError(f"{name} must be a number, got NaN")


def _protect(protect: Any) -> tuple[int, int]:
    whole = isinstance(protect, Sequence) and len(protect) == 2
    if not whole or any(not isinstance(n, Integral) or isinstance(n, bool) or n < 0 for n in protect):
        raise ValueError(f"protect must be two whole numbers (first, last), not negative; got {protect!r}")
    return int(protect[0]), int(protect[1])
