"""patch() and unpatch(): argument checks, and nothing half done."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._machine import clock_of, device_of
from ..coarse import Adapter
from ..policies import Stacked
from ..reports.report import Report
from . import arguments
from .denoisers import find_parts, give_weights
from .hook import PatchHook
from .patched_call import find_hook
from .policy import DEFAULT_SCALES, Decider, Schedule, always_fine, make_policy
from .timed import Timed
from .timed_budget import TimedBudget
from .timed_forecast import TimedForecast

if TYPE_CHECKING:
    from ..calibration.preset import Preset

DEFAULT_THRESHOLD = 1e-3


class Handle:
    """What patch() returns: the way to the report and back."""

    def __init__(self, pipe: Any, hook: PatchHook) -> None:
        self._pipe = pipe
        self._hook = hook

    @property
    def pipe(self) -> Any:
        """The pipeline that was patched."""
        return self._pipe

    @property
    def policy(self) -> Any:
        """What decides: the pipeline's own copy of a policy that was given to patch()."""
        return self._hook.decider.policy

    def report(self) -> Report:
        """What the last run did, or the one under way so far."""
        return Report(self._hook.record)

    def time_by(self, clock: Callable[[], float]) -> None:
        """Read the seconds of the report from `clock`: on a GPU, one that waits for the device."""
        self._hook.now = clock

    def unpatch(self) -> None:
        """Leave pipeline and transformer as they were, bit for bit. Again is no error; the report stays."""
        self._hook.remove()


def patch(
    pipe: Any,
    adapter: str | PathLike | Adapter | Mapping[str, Any] | None = None,
    *,
    scales: Sequence[int] = (1, 2, 4),
    threshold: float | Sequence[float] = DEFAULT_THRESHOLD,
    quantile: float = 0.4,
    schedule: Schedule = None,
    preset: str | PathLike | Preset | None = None,
    target_speedup: float | None = None,
    batch: str = "finest",
    protect: tuple[int, int] = (0, 0),
    lora: str = "beside",
    forecast: float = 0.0,
    corrector: float = 0.0,
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
        threshold: a score below it is coarse enough; one number, or one per scale above 1. For the paper's rule alone.
        quantile: in [0, 1], over the patches of a sample.
        schedule: None (dynamic: threshold, as in the paper), one size, a list of one size a step,
            in which 0 skips it, callable(step) -> size, or a policy of ddit_ext.policies (or one of your own like
            these). A policy is copied, so that one object may serve several pipelines; it brings its own scales,
            thresholds and protected steps (one of your own those of them that it has, see policies.Policy).
        batch: "finest": a batch takes the finest of its samples' sizes. "split": each sample decides for itself,
            as if it ran alone; those of one size run together, so a step may take several transformer calls.
        preset: what `calibrate` found, or its file. It says scales, quantile, schedule, forecast and corrector; model and adapter
            must be those it was made with, and what else differs (dtype, steps, resolution, sampler) is warned about.
            The number of steps is yours to pass: num_inference_steps=preset.steps.
        target_speedup: times the speed of a run at p, for each run by itself, by this run's own step times. With
            `forecast` as many steps are computed, at p, as the time allows, and the others are forecast: no adapter is
            needed, and it was much the closer one in trials. Without it sizes follow the scores within a budget.
            `calibrate` finds what is closest to the full sample at that speed, and may choose fewer steps.
        protect: so many steps at the beginning and at the end of a run stay at size 1.
        lora: how an adapter's feed-forward LoRA is computed. "beside" its layers, which stay what they are
            (quantised, offloaded, with LoRAs of yours), or "merged" into copies of their weights: no arithmetic
            at all, but each coarse size takes memory (FLUX.1-dev 12.2 GB in bfloat16, Wan 2.1 1.3B 1.7 GB), filled at
            its first step. Layers that can't be merged stay beside, with a warning that says why.
        forecast: what a skipped step adds in the place of its blocks. 0: what they added at the last computed step.
            1: where the line through the last two computed steps of one size has come to, over the noise level.
            Between: so much of the line's slope; 0.5 to 0.75 was closest in trials.
        corrector: after a computed step that follows skipped ones, this share of what they got wrong is taken back: the
            latent moves by the difference between their outputs and the line between the computed steps on both sides.
            No further call of the model. 1 was closest in trials: with a `forecast` of 0.75 where at least a third of the
            steps is computed, with one of 0 where fewer are. It needs a sampler of plain Euler steps (FlowMatchEulerDiscreteScheduler, FLUX's own); with another
            one a run raises ValueError before its first step.

    Raises:
        TypeError, ValueError: an argument, by name, with what was expected and what came.
        RuntimeError: the pipeline, or one that shares its transformer, is already patched.
        NotImplementedError: a feature, by name.
    In each case the pipeline is as it was.
    """
    parts = find_parts(pipe)
    scales = arguments.sizes("scales", scales)
    thresholds = arguments.thresholds("threshold", threshold, len(scales) - 1)
    protect = arguments.protected("protect", protect)
    if batch not in ("finest", "split"):
        raise ValueError(f"batch must be 'finest' or 'split', got {batch!r}")
    if lora not in ("beside", "merged"):
        raise ValueError(f"lora must be 'beside' or 'merged', got {lora!r}")
    for name, value in {"quantile": quantile, "forecast": forecast, "corrector": corrector}.items():
        arguments.share(name, value)
    if preset is not None or target_speedup is not None:
        _alone(preset, target_speedup, schedule, batch, threshold, forecast, corrector)
    if preset is not None:
        preset = _preset(preset)
        if (scales, quantile, protect) != (DEFAULT_SCALES, 0.4, (0, 0)):
            raise ValueError(
                "preset says scales, quantile and which steps are fine: leave out scales, quantile, protect"
            )
        schedule, quantile = preset.choice.schedule(preset.scales), preset.quantile
        forecast, corrector = preset.choice.forecast, preset.choice.corrector
        scales = tuple(getattr(schedule, "scales", preset.scales))
    if target_speedup is not None:
        _speedup(target_speedup, scales, forecast)
    if any(find_hook(part.module) is not None for part in parts):
        raise RuntimeError(
            "pipe is already patched (or shares its transformer with a pipeline that is): unpatch() it first"
        )
    if target_speedup is not None:
        target = float(target_speedup)
        policy: Any = TimedForecast(target, protect) if forecast else TimedBudget(scales, target, protect)
    else:
        sizes = schedule.sizes if isinstance(schedule, Stacked) else schedule
        if threshold != DEFAULT_THRESHOLD and sizes is not None:
            raise ValueError(
                f"threshold={threshold!r} is for the paper's rule (schedule=None): the schedule decides without it, and a "
                "policy object has thresholds of its own"
            )
        policy = make_policy(schedule, scales, thresholds, protect)
    decider = Decider(policy, split=batch == "split")
    for name, value in (("forecast", forecast), ("corrector", corrector)):
        if value and not decider.skips:
            raise ValueError(f"{name}={value} is for a schedule that skips steps, got {policy!r}")
    give_weights(parts, adapter, decider.scales[1:], always_fine(policy))
    check = full_steps = None
    if preset is not None:
        from ..calibration.match import RunCheck, check_parts

        weights = {part.name: part.adapter for part in parts} if adapter is not None else None
        for text in check_parts(preset, {part.name: part.family.transformer for part in parts}, weights):
            warnings.warn(f"ddit_ext: {text}", stacklevel=2)
        check, target_speedup = RunCheck(preset, type(pipe).__name__), preset.target_speedup
        full_steps = round(preset.full_steps * preset.run_steps / preset.steps)
    hook = PatchHook(
        pipe,
        parts,
        decider,
        tuple(getattr(policy, "thresholds", ())),
        float(quantile),
        check=check,
        target_speedup=target_speedup,
        full_steps=full_steps,
        forecast=float(forecast),
        corrector=float(corrector),
    )
    if isinstance(policy, Timed):
        hook.now = clock_of(device_of(pipe))
    for part in parts:
        part.family.low_rank.merge = lora == "merged"
    hook.install()
    return Handle(pipe, hook)


def unpatch(pipe: Any) -> None:
    """Take the patch off a pipeline (and off those that share its transformer); RuntimeError without one."""
    hooks = [hook for part in find_parts(pipe) if (hook := find_hook(part.module)) is not None]
    if not hooks:
        raise RuntimeError("pipe is not patched")
    for hook in hooks:
        hook.remove()


def _alone(
    preset: Any,
    target_speedup: Any,
    schedule: Any,
    batch: str,
    threshold: Any,
    forecast: float,
    corrector: float,
) -> None:
    """ValueError where what a preset or a target decides is given beside it."""
    name = "preset" if preset is not None else "target_speedup"
    if preset is not None and target_speedup is not None:
        raise ValueError("give preset or target_speedup, not both: a preset has its own target")
    if schedule is not None:
        raise ValueError(f"give {name} or schedule, not both")
    if threshold != DEFAULT_THRESHOLD:
        raise ValueError(f"give {name} or threshold, not both: the sizes follow from {name}")
    for own, value in (("forecast", forecast), ("corrector", corrector)):
        if preset is not None and value:
            raise ValueError(f"give preset or {own}, not both: a preset has its own; got {own}={value}")
    if batch != "finest":
        raise ValueError(f"{name} needs batch='finest': the time of a split step is not known beforehand")


def _preset(preset: Any) -> Preset:
    from ..calibration.preset import Preset

    if isinstance(preset, str | PathLike):
        return Preset.load(Path(preset))
    if not isinstance(preset, Preset):
        raise TypeError(f"preset must be a Preset or its file, got {type(preset).__name__}")
    return preset


def _speedup(target: Any, scales: tuple[int, ...], forecast: float) -> None:
    arguments.number("target_speedup", target)
    if not 1 <= target < math.inf:
        raise ValueError(f"target_speedup must be at least 1 and finite, got {target!r}")
    if forecast and scales not in (DEFAULT_SCALES, (1,)):
        raise ValueError(
            f"target_speedup with forecast computes at size 1 alone: leave out scales; got {scales}"
        )
    if not forecast and len(scales) < 2:
        raise ValueError(f"target_speedup needs a size above 1 in scales, or a forecast; got scales={scales}")
