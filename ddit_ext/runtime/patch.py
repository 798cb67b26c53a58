"""patch() and unpatch(): from what a user writes to a strategy, and a strategy's hook on the pipeline."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from .._machine import device_of
from ..coarse import Adapter
from ..modules.compiled import unwrap
from ..presets import Preset
from ..presets.match import check_parts
from ..reports.report import Report
from ..strategies import Fixed, Forecast, Policy, Strategy, Threshold, as_strategy, checks
from .denoisers import Part, find_denoisers, find_parts, give_weights, known_family
from .few_steps import few_steps
from .forecast_sampler import ALL_STEPS, ForecastSampler
from .hook import PatchHook
from .patched_call import find_hook
from .run_check import RunCheck
from .sampler_hook import SamplerHook, Watched
from .step_clock import HostMarks, marks_of

Schedule = int | Sequence[int] | Callable[[int], int] | Strategy | Policy | None
BATCH = ("finest", "split")

ELSEWHERE = {
    "forecast": "schedule=Forecast(calls=..., slope=...)",
    "corrector": "schedule=Forecast(calls=..., corrector=...)",
    "lora": "Adapter.load(path, transformer, lora=...)",
    **{name: f"schedule=Forecast({name}=...)" for name in ("calls", "target", "growth", "slope", "sizes")},
}
"""Keywords that patch() had, or that are looked for there, and where they are."""


class Handle:
    """What patch() returns: the way to the report and back. As a context manager it unpatches at the end."""

    def __init__(self, pipe: Any, hook: PatchHook | SamplerHook, strategy: Strategy) -> None:
        self._hook, self._strategy = hook, strategy
        self._pipe: Callable[[], Any] = lambda: pipe
        self._kind = type(pipe).__name__
        self._patched = True
        hook.on_leave = weakref.WeakMethod(self._left)

    @property
    def pipe(self) -> Any:
        """The pipeline that was patched; after unpatch(), None once nobody else holds it."""
        return self._pipe()

    def run(self, total: int = 0, *, sampler: Any = None) -> AbstractContextManager[Any]:
        """`with handle.run(...):` the calls of the transformer that this thread makes inside belong to one run.

        Pipelines need no such thing, and neither does a loop of your own that steps by `pipe.scheduler`. Other calls of the
        transformer are made as without a patch.

        Args:
            total: steps of a loop without a sampler, 0 for unknown; a call at another timestep begins the next step.
            sampler: what the loop steps with, set_timesteps already called; may be entered anew at each step, so that
                several runs take turns.
        """
        if sampler is not None and total:
            raise ValueError(
                f"give total or sampler, not both: the sampler knows its steps; got total={total}"
            )
        if sampler is not None and not callable(getattr(sampler, "step", None)):
            raise TypeError(f"sampler must be a diffusers scheduler, got {type(sampler).__name__}")
        return self._hook.watch.begin(checks.whole("total", total, 0), sampler)

    @property
    def strategy(self) -> Strategy:
        """What decides the steps."""
        return self._strategy

    def report(self) -> Report:
        """What the last run did, or the one under way so far."""
        return Report(self._hook.record)

    def time_by(self, clock: Callable[[], float]) -> None:
        """Read the seconds of the report from `clock`: on a GPU, one that waits for the device."""
        self._hook.marks = HostMarks(clock)

    def unpatch(self) -> None:
        """Leave pipeline and transformer as they were, bit for bit. Again is no error; the report stays.

        RuntimeError within a run of a Forecast, which stays patched: the pipeline's own sampler can't take over.
        """
        self._hook.remove()

    def _left(self) -> None:
        """The patch is off: the pipeline is no longer kept alive."""
        pipe = self._pipe()
        if self._patched and pipe is not None:
            self._pipe = weakref.ref(pipe)
        self._patched = False

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *error: object) -> None:
        self.unpatch()

    def __repr__(self) -> str:
        state = "" if self._patched else ", unpatched"
        return f"<ddit_ext.Handle: {self._kind}, {self._strategy!r}{state}>"


def patch(
    pipe: Any,
    adapter: str | PathLike | Adapter | Mapping[str, Any] | None = None,
    *,
    schedule: Schedule = None,
    preset: str | PathLike | Preset | None = None,
    batch: str = "finest",
    protect: tuple[int, int] | None = None,
    scales: Sequence[int] | None = None,
    threshold: float | Sequence[float] | None = None,
    quantile: float | None = None,
    target_speedup: float | None = None,
    **unknown: Any,
) -> Handle:
    """Make a diffusers pipeline faster: fewer model calls, or larger patches at some steps.

    `patch(pipe)` is `patch(pipe, schedule=Forecast(speedup=2))`: half of the steps call the model.
    `patch(pipe, adapter)` is the paper's rule, `Threshold()`.

    Args:
        pipe: for `Forecast` every pipeline with a flow-matching sampler. For larger patches one of FLUX, FLUX.2,
            Qwen-Image, Z-Image, Stable Diffusion 3, HunyuanVideo 1.5 or Wan; for skipped steps one of these or
            of some more families (docs/families.md has the pipelines). Pipelines that share its transformer (`from_pipe`, `components`) share the patch; `Forecast` without `sizes` is shared by
            those that are made from it after patching.
        adapter: an Adapter, or the path of what a trainer wrote; None: larger patches run training-free. For two
            transformers a folder with the subfolders `transformer` and `transformer_2`, or a mapping from these names.
        schedule: a strategy (see `ddit_ext.strategies`), one scale, a list of one scale a step, in which 0 skips the
            step, callable(step) -> scale, or a policy of your own (see `strategies.Policy`).
        preset: what `calibrate` found, or its file. Model and adapter must be those it was made with; what else
            differs (dtype, steps, resolution, sampler) is warned about. Call the pipeline with `**preset.call`.
        batch: "finest": a batch takes the finest of its samples' scales. "split": each sample decides for itself, as
            if it ran alone; a step may then take several transformer calls. Not for a `Forecast` without `sizes`.
        scales, threshold, quantile, protect: of `Threshold`; scales and protect also beside a list, callable or policy,
            quantile beside a policy that looks at scores of the latents.
        target_speedup: short for schedule=Forecast(speedup=target_speedup).

    Raises:
        TypeError, ValueError: an argument, by name, with what was expected and what came.
        RuntimeError: the pipeline, or one that shares its transformer, is already patched.
        NotImplementedError: a feature, by name.
    In each case the pipeline is as it was.
    """
    _check_names(unknown)
    denoisers = find_denoisers(pipe)
    checks.one_of("batch", batch, BATCH)
    given = _given(scales=scales, threshold=threshold, quantile=quantile, protect=protect)
    if batch == "split":
        given["batch"] = batch
    if preset is not None:
        _alone("preset", given | _given(schedule=schedule, target_speedup=target_speedup))
        preset = _preset(preset)
        strategy = preset.strategy
    elif target_speedup is not None:
        _alone(
            "target_speedup",
            given | _given(schedule=schedule),
            "; for larger patches use schedule=Budget(...)",
        )
        strategy = Forecast(speedup=checks.number("target_speedup", target_speedup, 1.0, finite=True))
    elif schedule is None:
        given.pop("batch", None)
        strategy = (
            Threshold(**given) if given or adapter is not None or batch == "split" else Forecast(speedup=2)
        )
    else:
        if threshold is not None:
            raise ValueError(
                f"threshold={threshold!r} is for the paper's rule: use schedule=Threshold({threshold!r})"
            )
        strategy = as_strategy(schedule, scales, quantile, protect)
    if any(find_hook(module) is not None for module in denoisers.values()):
        raise RuntimeError(
            "pipe is already patched (or shares its transformer with a pipeline that is): take that off first, with "
            "ddit_ext.unpatch(pipe)"
        )
    few = few_steps(pipe, denoisers)
    if few is not None:
        warnings.warn(f"ddit_ext: {few}", stacklevel=2)
    hook = _hook(pipe, adapter, strategy, batch == "split", preset)
    # A preset asks for its adapter, and a Fixed says each step's scale: nobody is surprised there.
    if adapter is not None and preset is None and not (strategy.coarse or isinstance(strategy, Fixed)):
        warnings.warn(
            f"ddit_ext: the adapter is not used: {strategy!r} has no coarse step; Forecast(..., sizes=...), Threshold() "
            "and Budget(speedup) have",
            stacklevel=2,
        )
    if any(part.target_speedup is not None for part in (strategy, strategy.computed)):
        hook.marks = marks_of(torch.device(device_of(pipe)))
    hook.install()
    return Handle(pipe, hook, strategy)


def unpatch(pipe: Any) -> None:
    """Take the patch off a pipeline (and off those that share its transformer); RuntimeError without one, and as Handle.unpatch."""
    hooks = [hook for module in find_denoisers(pipe).values() if (hook := find_hook(module)) is not None]
    if not hooks:
        raise RuntimeError("pipe is not patched: ddit_ext.patch(pipe) does that")
    for hook in hooks:
        hook.remove()


def _hook(
    pipe: Any, adapter: Any, strategy: Strategy, split: bool, preset: Preset | None
) -> PatchHook | SamplerHook:
    """The hook for a strategy, not installed yet; raises what patch() raises."""
    if split:
        strategy.check_split()
    watched = [Watched(module, known_family(module)) for module in find_denoisers(pipe).values()]
    known = all(part.family is not None for part in watched)
    sized = strategy.changes_calls or (strategy.sampler is None and known)
    parts = []
    if sized or adapter is not None:
        parts = find_parts(pipe)
        give_weights(parts, adapter, strategy.coarse)
    check = None if preset is None else _check(preset, pipe, parts if adapter is not None else None)
    sampler = (
        None if sized and strategy.sampler is None else ForecastSampler(pipe, strategy.sampler or ALL_STEPS)
    )
    if sized:
        return PatchHook(pipe, parts, strategy, sampler, check, split)
    return SamplerHook(pipe, watched, strategy, sampler, check)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _alone(name: str, others: dict[str, Any], fix: str = "") -> None:
    """ValueError where what a preset or a target decides is given beside it."""
    for other, value in others.items():
        raise ValueError(
            f"give {name} or {other}, not both: {name} decides the steps; got {other}={value!r}{fix}"
        )


def _check_names(unknown: dict[str, Any]) -> None:
    """TypeError for a keyword that patch() does not have, with the one that was meant, or what stands in its place."""
    known = [name for name in patch.__annotations__ if name not in ("unknown", "return")]
    for name in unknown:
        instead = ELSEWHERE.get(checks.nearest(name, [*known, *ELSEWHERE]) or "")
        if instead:
            raise TypeError(f"patch() got an unexpected keyword argument {name!r}; use {instead}")
    checks.keywords("patch()", unknown, known)


def _preset(preset: Any) -> Preset:
    if isinstance(preset, str | PathLike):
        return Preset.load(Path(preset))
    if not isinstance(preset, Preset):
        raise TypeError(f"preset must be a Preset or its file, got {type(preset).__name__}")
    return preset


def _check(preset: Preset, pipe: Any, parts: Sequence[Part] | None) -> RunCheck:
    """Raises for another model or adapter. parts: with the user's adapter; None without one."""
    weights = None if parts is None else {part.name: part.adapter for part in parts}
    models = {name: unwrap(module) for name, module in find_denoisers(pipe).items()}
    for text in check_parts(preset, models, weights):
        warnings.warn(f"ddit_ext: {text}", stacklevel=4)
    return RunCheck(preset, type(pipe).__name__)
