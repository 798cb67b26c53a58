"""Runs of the embedded pipeline for the benchmarks: same prompts, same noise, only the denoising loop on the clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import ddit_ext


@dataclass(frozen=True)
class Method:
    """One way to spend a denoising loop: so many steps, and what ``ddit_ext.patch`` is told (None: not patched)."""

    name: str
    steps: int
    patch: dict[str, Any] | None = None


@dataclass
class Outcome:
    seconds: list[float] = field(default_factory=list)  # one a batch
    latents: list[torch.Tensor] = field(default_factory=list)
    reports: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Batch:
    prompts: list[str]
    embeds: torch.Tensor
    pooled: torch.Tensor
    noise: torch.Tensor


def batches(pipe: Any, prompts: list[str], size: int, seed: int) -> list[Batch]:
    """Prompts encoded and noise drawn once, so that every method starts from the same."""
    made = []
    for start in range(0, len(prompts), size):
        part = prompts[start : start + size]
        embeds, pooled, _ = pipe.encode_prompt(part, None, max_sequence_length=12)
        generator = torch.Generator().manual_seed(seed + start)
        shape = (len(part), (pipe.transformer.config.in_channels // 4), 32, 32)
        noise = torch.randn(shape, generator=generator)
        made.append(Batch(part, embeds, pooled, pipe._pack_latents(noise, *shape)))
    return made


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


def run(pipe: Any, batch: Batch, method: Method) -> tuple[torch.Tensor, float, dict[str, Any] | None]:
    """One denoising loop: packed latents, its seconds, and the report where it was patched."""
    with patched(pipe, method.patch) as handle:
        started = time.perf_counter()
        latents = pipe(
            prompt_embeds=batch.embeds,
            pooled_prompt_embeds=batch.pooled,
            latents=batch.noise.clone(),
            num_inference_steps=method.steps,
            output_type="latent",
        ).images
        seconds = time.perf_counter() - started
        return latents, seconds, handle.report().to_dict() if handle is not None else None


def interleaved_runs(pipe: Any, made: list[Batch], methods: list[Method]) -> dict[str, Outcome]:
    """Every method on every batch, taking turns; the first batch is run once more beforehand to warm up."""
    outcomes = {method.name: Outcome() for method in methods}
    for method in methods:
        run(pipe, made[0], Method(method.name, min(method.steps, 5), _short(method.patch)))
    for number, batch in enumerate(made):
        for method in methods if number % 2 == 0 else reversed(methods):
            latents, seconds, report = run(pipe, batch, method)
            outcome = outcomes[method.name]
            outcome.seconds.append(seconds)
            outcome.latents.append(latents)
            if report is not None:
                outcome.reports.append(report)
    return outcomes


def _short(settings: dict[str, Any] | None) -> dict[str, Any] | None:
    if settings and isinstance(settings.get("schedule"), list):
        return settings | {"schedule": settings["schedule"][:5]}
    return settings


@torch.no_grad()
def decode(pipe: Any, latents: torch.Tensor) -> np.ndarray:
    """Packed latents -> uint8 pictures ``[n, H, W, 3]``."""
    pictures = []
    for part in latents.split(32):
        planes = pipe._unpack_latents(part, 64, 64, pipe.vae_scale_factor)
        planes = planes / pipe.vae.config.scaling_factor + pipe.vae.config.shift_factor
        signal = pipe.vae.decode(planes).sample.clamp(-1, 1)
        pictures.append(((signal + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1))
    return torch.cat(pictures).numpy()
