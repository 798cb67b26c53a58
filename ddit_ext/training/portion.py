"""What one process learns from in a step: its part of every batch, at the noise levels it was drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..families import Family
from .config import DistillConfig
from .objective import add_noise, draw_sigma
from .processes import Processes

Batch = tuple[Tensor, dict[str, Any]]


@dataclass(frozen=True)
class Portion:
    """This process's part of one batch: the noisy call, its own levels [B], and those of all processes [n·B]."""

    arguments: dict[str, Any]
    sigma: Tensor
    everyone: Tensor


def draw_portions(
    family: Family,
    batches: Sequence[Batch],
    config: DistillConfig,
    processes: Processes,
    step: int,
    first: int,
    generator: torch.Generator,
    device: torch.device,
) -> list[Portion]:
    """The noisy calls of a step, one a batch.

    The levels of all processes' samples are drawn here, from the range of the scale ``first``, in every process
    alike; the noise of a sample comes from a generator of its own. So they do not depend on how a step's samples are
    shared out. A batch with ``noise_level`` [B] is noisy already.

    Raises:
        ValueError: batches of different sizes in different processes.
    """
    sizes = [latents.shape[0] for latents, _ in batches]
    everyones = processes.gather(torch.tensor([sizes], device=device))
    if bool((everyones != everyones[0]).any()):
        raise ValueError(f"batches must be of one size in all processes, got {everyones.tolist()}")
    drawn = draw_sigma(processes.count * sum(sizes), *config.range_of(first), config.sigma_shift, generator)
    portions, start = [], 0
    for (latents, conditions), size in zip(batches, sizes, strict=True):
        conditions = {
            name: value.detach().to(device) if isinstance(value, Tensor) else value
            for name, value in conditions.items()
        }
        level = conditions.pop("noise_level", None)
        arguments = family.training_call(latents.detach().to(device), conditions)
        own = range(start + processes.rank * size, start + (processes.rank + 1) * size)
        start += processes.count * size
        if level is None:
            everyone, sigma = drawn[start - processes.count * size : start], drawn[own.start : own.stop]
            noise = [_generator(config.seed, step, sample) for sample in own]
        else:
            everyone, sigma, noise = processes.gather(level.float()).cpu(), level.float().cpu(), None
        portions.append(Portion(add_noise(family, arguments, sigma, noise), sigma, everyone))
    return portions


def _generator(seed: int, step: int, sample: int) -> torch.Generator:
    """The noise of one sample of a step, whichever process and batch it is in."""
    return torch.Generator().manual_seed((((seed * 1_000_003 + step) * 1_000_003) + sample + 1) % 2**63)
