"""Runs of the embedded pipeline for the benchmarks: same prompts, same noise, only the denoising loop on the clock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from _timing import Taken
from diffusers import WanPipeline

import ddit_ext
from ddit_ext import Budget, Forecast
from ddit_ext.embedded.pipeline import EmbeddedLargeFluxPipeline

TRIES = 4
"""So often a run is made at most, where other machines on the host had more than Taken.LIMIT of the cores' time."""


@dataclass(frozen=True)
class Method:
    """One way to spend a denoising loop: so many steps, and what ``ddit_ext.patch`` is told (None: not patched).

    cache: pipeline -> a configuration of one of diffusers' caches, made anew for every run (None: no cache).
    sigmas: where the steps lie, one a step, before the sampler's shift (None: where the pipeline has them).
    scheduler: the pipeline's own scheduler -> the one of this run (None: its own).
    around: pipeline -> a context that the run is made in, such as another package's cache (None: none).
    """

    name: str
    steps: int
    patch: dict[str, Any] | None = None
    cache: Callable[[Any], Any] | None = None
    sigmas: tuple[float, ...] | None = None
    scheduler: Callable[[Any], Any] | None = None
    around: Callable[[Any], AbstractContextManager] | None = None


@dataclass
class Outcome:
    seconds: list[float] = field(default_factory=list)  # one a batch
    latents: list[torch.Tensor] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)
    beside: list[float] = field(
        default_factory=list
    )  # one a batch: seconds of what ran before and after, their mean

    def speed(self, base: Outcome) -> np.ndarray:
        """Times as fast as `base`, float64 [batches]: by what ran beside the two, where something did."""
        if not self.beside:
            return np.array(base.seconds) / np.array(self.seconds)
        own, other = (np.array(each.beside) / np.array(each.seconds) for each in (self, base))
        return own / np.median(other)


@dataclass(frozen=True)
class Batch:
    prompts: list[str]
    inputs: dict[str, torch.Tensor]  # arguments of the pipeline's call: text embeddings and noise


def batches(pipe: Any, prompts: list[str], size: int, seed: int) -> list[Batch]:
    """Prompts encoded and noise drawn once, so that every method starts from the same."""
    encode = _wan_inputs if isinstance(pipe, WanPipeline) else _flux_inputs
    parts = [(start, prompts[start : start + size]) for start in range(0, len(prompts), size)]
    return [Batch(part, encode(pipe, part, torch.Generator().manual_seed(seed + at))) for at, part in parts]


def _flux_inputs(pipe: Any, prompts: list[str], generator: torch.Generator) -> dict[str, torch.Tensor]:
    embeds, pooled, _ = pipe.encode_prompt(prompts, None, max_sequence_length=12)
    side = 64 if isinstance(pipe, EmbeddedLargeFluxPipeline) else 32
    shape = (len(prompts), (pipe.transformer.config.in_channels // 4), side, side)
    noise = torch.randn(shape, generator=generator)
    return {
        "prompt_embeds": embeds,
        "pooled_prompt_embeds": pooled,
        "latents": pipe._pack_latents(noise, *shape),
    }


def _wan_inputs(pipe: Any, prompts: list[str], generator: torch.Generator) -> dict[str, torch.Tensor]:
    embeds, empty = pipe.encode_prompt(prompts, max_sequence_length=12)
    noise = torch.randn((len(prompts), pipe.vae.config.z_dim, 3, 24, 24), generator=generator)
    return {"prompt_embeds": embeds, "negative_prompt_embeds": empty, "latents": noise}


@contextmanager
def patched(pipe: Any, settings: dict[str, Any] | None) -> Iterator[Any]:
    if settings is None:
        yield None
        return
    handle = ddit_ext.patch(pipe, **settings)
    try:
        yield handle
    finally:
        handle.unpatch()


@contextmanager
def cached(pipe: Any, config: Callable[[Any], Any] | None) -> Iterator[None]:
    """Inside, the pipeline's transformer has the cache. `enable_cache` makes its states anew: none is left of another run."""
    if config is None:
        yield
        return
    pipe.transformer.enable_cache(config(pipe))
    try:
        yield
    finally:
        pipe.transformer.disable_cache()


@contextmanager
def scheduled(pipe: Any, make: Callable[[Any], Any] | None) -> Iterator[None]:
    """Inside, the pipeline has another scheduler."""
    own = pipe.scheduler
    if make is not None:
        pipe.scheduler = make(own)
    try:
        yield
    finally:
        pipe.scheduler = own


def run(pipe: Any, batch: Batch, method: Method) -> tuple[torch.Tensor, float, dict[str, Any] | None]:
    """One denoising loop: its latents (FLUX's packed), its seconds, and the report where it was patched.

    Patching, another scheduler, and enabling a cache, are not on the clock.
    """
    around = method.around(pipe) if method.around else nullcontext()
    with (
        scheduled(pipe, method.scheduler),
        patched(pipe, method.patch) as handle,
        cached(pipe, method.cache),
        around,
    ):
        started = time.perf_counter()
        inputs = batch.inputs | {"latents": batch.inputs["latents"].clone()}
        if method.sigmas is not None:
            inputs["sigmas"] = list(method.sigmas)
        output = pipe(**inputs, num_inference_steps=method.steps, output_type="latent")
        seconds = time.perf_counter() - started
        latents = output.frames if isinstance(pipe, WanPipeline) else output.images
        return latents, seconds, handle.report().to_dict() if handle is not None else None


def interleaved_runs(
    pipe: Any, made: list[Batch], methods: list[Method], *, beside: Method | None = None
) -> dict[str, Outcome]:
    """Every method on every batch, taking turns; the first batch is run once more beforehand to warm up.

    beside: runs before and after each of the methods, so that how fast the machine was just then is known.
    A run that lost more than Taken.LIMIT of its time to other machines is made again, up to TRIES in all, and what lost
    least counts.
    """
    outcomes = {method.name: Outcome() for method in methods}
    for method in methods if beside is None else [beside, *methods]:
        run(pipe, made[0], _short(method))
    for number, batch in enumerate(made):
        since = Taken()
        before = _timed(pipe, batch, beside)
        for method in methods if number % 2 == 0 else reversed(methods):
            tried: list[_Tried] = []
            while not tried or (len(tried) < TRIES and tried[-1].taken > Taken.LIMIT):
                if tried:
                    since = Taken()
                    before = _timed(pipe, batch, beside)
                timed = _timed(pipe, batch, method)
                between = Taken()
                after = _timed(pipe, batch, beside)
                tried.append(_Tried(timed, (before.seconds + after.seconds) / 2, since.share()))
                before, since = after, between
            best = min(tried, key=lambda each: each.taken)
            outcome = outcomes[method.name]
            outcome.seconds.append(best.timed.seconds)
            outcome.latents.append(best.timed.latents)
            if best.timed.report is not None:
                outcome.reports.append(best.timed.report)
            if beside:
                outcome.beside.append(best.beside)
    return outcomes


@dataclass(frozen=True)
class _Timed:
    """What one run gave, and its seconds."""

    latents: Any
    seconds: float
    report: dict[str, Any] | None


def _timed(pipe: Any, batch: Batch, method: Method | None) -> _Timed:
    """None: nothing is run."""
    return _Timed(*run(pipe, batch, method)) if method else _Timed(None, 0.0, None)


@dataclass(frozen=True)
class _Tried:
    """A method's run, the mean seconds of those before and after it, and the share of the cores' time taken meanwhile."""

    timed: _Timed
    beside: float
    taken: float


def _short(method: Method) -> Method:
    """The same, of five steps at most."""
    told, sigmas = method.patch, method.sigmas
    if told and isinstance(told.get("schedule"), list):
        sizes = told["schedule"]
        told = told | {
            "schedule": [*sizes[:4], sizes[-1]]
        }  # one that skips ends with a skip, and does so here
    if told and "target_speedup" in told:
        told = told | {"target_speedup": 1.1}  # five steps can't be six times as fast
    if told and isinstance(told.get("schedule"), Forecast):
        told = told | {"schedule": replace(told["schedule"], calls=2, sizes=None)}
    if told and isinstance(told.get("schedule"), Budget):
        told = told | {"schedule": replace(told["schedule"], speedup=1.1)}
    if told and "preset" in told:
        told = {name: value for name, value in told.items() if name != "preset"} | {
            "schedule": [*told["preset"].strategy.scales, 1, 1, 1, 1][:5]
        }
    return replace(method, steps=min(method.steps, 5), patch=told, sigmas=sigmas and sigmas[:5])


@torch.no_grad()
def decode(pipe: Any, latents: torch.Tensor) -> np.ndarray:
    """A run's latents -> uint8 pictures ``[n, H, W, 3]`` or clips ``[n, F, H, W, 3]``."""
    planes_of = _wan_planes if isinstance(pipe, WanPipeline) else _flux_planes
    pictures = []
    for part in latents.split(32):
        signal = pipe.vae.decode(planes_of(pipe, part)).sample.clamp(-1, 1)
        pictures.append(((signal + 1) * 127.5).round().to(torch.uint8).movedim(1, -1))
    return torch.cat(pictures).numpy()


def _flux_planes(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    side = 4 * math.isqrt(latents.shape[1])  # pixels
    planes = pipe._unpack_latents(latents, side, side, pipe.vae_scale_factor)
    return planes / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor


def _wan_planes(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    config = pipe.vae.config
    mean, deviation = (
        torch.tensor(row)[:, None, None, None] for row in (config.latents_mean, config.latents_std)
    )
    return latents * deviation + mean
