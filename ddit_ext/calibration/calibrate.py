"""calibrate(): from a target speed to a preset."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from numbers import Real
from os import PathLike
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .._machine import clock_of, device_name, device_of
from .._version import __version__
from ..coarse import Adapter
from ..modules.compiled import unwrap
from ..presets import Candidate, Preset
from ..presets.match import identity, plain_config
from ..runtime import patch
from ..runtime.denoisers import TRAINING_FREE, find_denoisers, find_parts, give_weights
from ..schedulers import ForecastScheduler
from ..strategies import DEFAULT_QUANTILE, DEFAULT_SCALES, checks
from . import fixed
from .measure import Measure
from .pictures import SHOWN, first_frames, prompts_of
from .reference import Reference, dense, median_step
from .runner import Runner, Setting, quiet
from .search import Search
from .verdict import NotReached, check_reach, choose, explain

OWN = ("generator", "output_type", "prompt", "return_dict", "callback_on_step_end")
"""Arguments of a pipeline that a calibration sets itself, or that would make its runs differ."""

TIMES = ("sigmas", "timesteps")
"""Arguments that say every step of a run, so that none would have fewer."""


def calibrate(
    pipe: Any,
    prompts: Sequence[str | Mapping[str, Any]],
    *,
    adapter: str | PathLike | Adapter | Mapping[str, Any] | None = None,
    target_speedup: float | Sequence[float] = 2.0,
    target: str = "run",
    measure: Callable[[np.ndarray, np.ndarray, list[str]], Any] | None = None,
    scales: Sequence[int] | None = None,
    quantile: float = DEFAULT_QUANTILE,
    batch_size: int = 1,
    seed: int = 0,
    progress: bool = True,
    clock: Callable[[], float] | None = None,
    **call: Any,
) -> Preset | dict[float, Preset]:
    """Find, by running, what is closest to the full run at `target_speedup` times its speed.

    The full run has the steps of `call`, all of them computed. Tried are fewer steps and forecasts; with scales above
    1 also fixed scales and scales by scores. Speed is that of the denoising loop on this machine; closeness is PSNR
    over all pictures of all prompts. With scales=(1,) the runs cost at most 3 + 1.75 full runs a prompt, for one
    target (docs/calibrate.md).

    Args:
        pipe: as for `patch`; not patched, and as it was afterwards.
        prompts: what to draw: texts, or the arguments of one call each (such as prompt_embeds, or prompt and image).
        adapter: as for `patch`.
        target_speedup: times the speed of the full run, above 1; or several, which share the dense runs and the step
            times. All of them are checked before any is searched. One that is not reached in runs, though step times
            promised it, is left out with a warning, as long as another one is reached.
        target: "run" compares with the full run's pictures, "exact" with those of a run of as many calls that aims at
            the sample of the ODE.
        measure: `measure(pictures, references, prompts)` -> one number a picture, the higher the better: what is closest, in
            the place of PSNR. Pictures and references: uint8 [n, H, W, 3], clips [n, F, H, W, 3]; prompts: n texts.
        scales, quantile: as for `Threshold`. None: (1,) without an adapter, else (1, 2, 4). With (1,) no adapter is
            needed and none of this library's ops, and every pipeline with a flow-matching sampler will do.
        batch_size: texts a call.
        seed: of the noise of the first call; the next ones take the next seeds.
        progress: whether to show a progress bar.
        clock: seconds; None: time.perf_counter, on a GPU after waiting for it.
        call: further arguments of every call, such as num_inference_steps, guidance_scale, height and width;
            not sigmas or timesteps, which say every step.

    Returns:
        a Preset: for `patch(pipe, adapter, preset=preset)` and `pipe(prompt, **preset.call)`;
        for several targets {target: Preset}, in their order.

    Raises:
        ValueError: `target_speedup` can't be reached (the text says what can, and why), the pipeline has a
            ForecastScheduler, or a bad argument.
        TypeError: an argument of another type. RuntimeError: the pipeline is patched.
    """
    speedups = _targets(target_speedup)
    checks.whole("seed", seed, -(2**63), 2**63 - 1)
    if "num_inference_steps" in call:
        call["num_inference_steps"] = checks.whole("num_inference_steps", call["num_inference_steps"])
    checks.one_of("target", target, ("run", "exact"))
    compare = None if measure is None else Measure(measure)
    calls = _calls(prompts, batch_size, call)
    if scales is None:
        scales = (1,) if adapter is None else DEFAULT_SCALES
    scales = checks.scales("scales", scales)
    quantile = checks.number("quantile", quantile, 0.0, 1.0)
    patch(pipe, schedule=dense(target)).unpatch()  # raises what patch() raises
    if isinstance(pipe.scheduler, ForecastScheduler):
        raise ValueError(
            "pipe.scheduler is a ForecastScheduler, whose runs are forecasts themselves and no full runs to compare "
            "with: give the pipeline its own sampler back, with pipe.scheduler = pipe.scheduler.base"
        )
    weights = _weights(adapter, pipe, scales)
    clock = clock or clock_of(device_of(pipe))
    device = device_name(device_of(pipe))
    presets: dict[float, Preset] = {}
    missed: list[str] = []
    with quiet(pipe), tqdm(desc="calibrating", unit="run", disable=not progress) as bar:
        runner = Runner(pipe, weights, calls, seed, clock, bar.update)
        first = runner.run(0, Setting(None, dense(target)), reference=True)
        steps = _steps(pipe, call, len(first.steps))
        reference = Reference(runner, steps, target, max(speedups), measure=compare)
        reference.runs[0] = first
        reference.seconds = {1: median_step(first)}
        if len(scales) > 1:
            reference.seconds = runner.step_seconds(reference.steps, scales)
        check_reach(reference, device)
        for speedup in speedups:
            bar.set_description_str(f"calibrating to {speedup:g}x")
            reference = replace(reference, speedup=speedup)  # the dense runs are shared
            search = Search(reference, scales, quantile)
            if len(scales) == 1:
                bar.total = bar.n + len(calls) - len(reference.runs) + search.most_runs()
            try:
                chosen = choose([search.tried[setting] for setting in search.go()], reference)
            except NotReached as error:
                missed.append(str(error))
            else:
                presets[speedup] = _preset(pipe, weights if adapter is not None else None, search, chosen)
    if not presets:
        raise NotReached("\n".join(missed))
    for text in missed:
        warnings.warn(f"ddit_ext: {text}; it is left out", stacklevel=2)
    return presets if isinstance(target_speedup, Sequence) else presets[speedups[0]]


def _targets(speedup: Any) -> list[float]:
    """The speeds that are asked for."""
    several = isinstance(speedup, Sequence) and not isinstance(speedup, str | bytes)
    targets = list(speedup) if several else [speedup]
    if not targets:
        raise ValueError("target_speedup must hold at least one number, got none")
    for target in targets:
        if isinstance(target, bool) or not isinstance(target, Real):
            raise TypeError(f"target_speedup must be a number, or several, got {speedup!r}")
        if not (math.isfinite(target) and target > 1):
            raise ValueError(f"target_speedup must be above 1 and finite, got {speedup!r}")
    return [float(target) for target in dict.fromkeys(targets)]


def _calls(prompts: Any, batch_size: int, call: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The arguments of each call."""
    expected = "prompts must be texts, or the arguments of one call each"
    if isinstance(prompts, str | bytes | Mapping) or not isinstance(prompts, Sequence):
        raise TypeError(f"{expected}; got {type(prompts).__name__}")
    if not prompts:
        raise ValueError(f"{expected}; got none")
    checks.whole("batch_size", batch_size)
    for name in OWN:
        if name in call:
            raise ValueError(
                f"{name} is set by calibrate (prompts and seed say what is drawn); got it in the call"
            )
    for name in TIMES:
        if name in call or any(isinstance(prompt, Mapping) and name in prompt for prompt in prompts):
            raise ValueError(
                f"{name} says every step of a run, and calibrate tries other numbers of them: give "
                f"num_inference_steps; got {name} in the call or in prompts"
            )
    if all(isinstance(prompt, str) for prompt in prompts):
        if len(prompts) % batch_size:
            raise ValueError(
                f"prompts must fill batches of batch_size={batch_size}, so that every call takes as long; "
                f"got {len(prompts)}: give a multiple of it"
            )
        parts = [list(prompts[i : i + batch_size]) for i in range(0, len(prompts), batch_size)]
        return [{**call, "prompt": part if batch_size > 1 else part[0]} for part in parts]
    if not all(isinstance(prompt, Mapping) for prompt in prompts):
        found = sorted({type(prompt).__name__ for prompt in prompts})
        raise TypeError(f"{expected}; got {', '.join(found)}")
    if batch_size != 1:
        raise ValueError("batch_size is for texts: arguments of a call hold their own batch")
    for name in (*(name for name in OWN if name != "prompt"), "num_inference_steps"):
        if any(name in prompt for prompt in prompts):
            raise ValueError(f"prompts: {name} must be the same in every call; got it in one of them")
    return [{**call, **prompt} for prompt in prompts]


def _weights(adapter: Any, pipe: Any, scales: tuple[int, ...]) -> dict[str, Adapter] | None:
    """An adapter for each transformer of `pipe`, as `patch` takes them; raises what `patch` raises.

    None where none was given and no scale needs one.
    """
    coarse = scales[1:]
    if adapter is None and not coarse:
        return None
    parts = find_parts(pipe)
    if adapter is None:
        warnings.warn(TRAINING_FREE, stacklevel=3)
        return {part.name: Adapter.training_free(part.family.transformer, coarse) for part in parts}
    give_weights(parts, adapter, coarse)
    return {part.name: part.adapter for part in parts if part.adapter is not None}


def _steps(pipe: Any, call: Mapping[str, Any], seen: int) -> int:
    """num_inference_steps of the full run: as given, the pipeline's default, or as many as it did."""
    default = inspect.signature(pipe.__call__).parameters.get("num_inference_steps")
    steps = call.get("num_inference_steps", default.default if default is not None else seen)
    return steps if isinstance(steps, int) else seen


def _preset(pipe: Any, weights: dict[str, Adapter] | None, search: Search, chosen: Candidate) -> Preset:
    """weights: the user's own, None without."""
    reference = search.reference
    first, setting = reference.run(0), Setting(chosen.steps, chosen.strategy)
    done = search.runs[setting]
    tried = sorted(
        search.tried.values(),
        key=lambda candidate: (-candidate.closeness, -candidate.psnr, candidate.words()),
    )
    models = {name: unwrap(module) for name, module in find_denoisers(pipe).items()}
    base, digest = identity(models, weights)
    return Preset(
        base=base,
        adapter=digest,
        pipeline=type(pipe).__name__,
        sampler={"class": type(pipe.scheduler).__name__, "config": plain_config(pipe.scheduler)},
        dtype=str(next(iter(models.values())).dtype).removeprefix("torch."),
        steps=chosen.steps,
        run_steps=len(done.steps),
        full_steps=reference.steps,
        grid=first.grid,
        picture=tuple(first.pictures.shape[-3:-1]),
        batch=len(first.steps[0]["scales"]),
        target=reference.target,
        strategy=chosen.strategy,
        explanation=explain(chosen, tried, reference, len(done.steps), search.on),
        target_speedup=reference.speedup,
        speed=chosen.speed,
        psnr=chosen.psnr,
        measure=None if reference.measure is None else reference.measure.name,
        score=chosen.score,
        step_seconds=dict(reference.seconds),
        device=device_name(device_of(pipe)),
        threads=torch.get_num_threads(),
        candidates=tuple(tried),
        versions={"ddit_ext": __version__, "torch": torch.__version__, "diffusers": version("diffusers")},
        pictures=_pictures(search, setting),
    )


def _pictures(search: Search, chosen: Setting) -> dict[str, dict[str, Any]]:
    """{sample: {caption: picture}}: the full run, the chosen one, and the plain steps that take as long."""
    reference, plain = search.reference, fixed.fewer_steps(search.reference)
    prompts, full = [], []
    for number, done in sorted(reference.runs.items()):
        full += first_frames(done.pictures)
        prompts += prompts_of(search.runner.calls[number], len(done.pictures))
    beside = {"chosen": search.shown[chosen]}
    if plain is not None and plain != chosen:
        beside[f"{plain.steps} plain steps"] = search.shown.get(plain, [])
    shown = {}
    for index, (prompt, picture) in enumerate(zip(prompts[:SHOWN], full, strict=False)):
        columns = {f"full run, {reference.steps} steps": picture}
        for name, pairs in beside.items():
            columns |= {f"{name}, {close:.1f} dB": drawn for drawn, close in pairs[index : index + 1]}
        shown[f"{index + 1}: {prompt}" if prompt else f"{index + 1}"] = columns
    return shown
