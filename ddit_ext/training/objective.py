"""One distillation sample: noise, the teacher's velocity, the student's, and how far they are apart.

Teacher and student are one frozen model: the teacher is the plain call, the student the same call at a larger
patch size, ‖v_student(z_σ; s) - v_teacher(z_σ; 1)‖² (DDiT, arXiv 2602.16968, has ε for v).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from ..coarse.scale_weights import ScaleWeights
from ..families import Family


def draw_sigma(count: int, low: float, high: float, shift: float, generator: torch.Generator) -> Tensor:
    """Noise levels [count] in [low, high], one in each of ``count`` equal strata and in random order."""
    low, high = low / (shift - (shift - 1) * low), high / (shift - (shift - 1) * high)  # the shift undone
    strata = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    uniform = low + (high - low) * strata
    return shift * uniform / (1 + (shift - 1) * uniform)


def add_noise(
    family: Family,
    arguments: dict[str, Any],
    sigma: Tensor,
    generator: torch.Generator | list[torch.Generator] | None,
) -> dict[str, Any]:
    """The arguments of ``Family.training_call`` at noise level ``sigma`` [B] (CPU float32): z = (1-σ)·x0 + σ·ε.

    The noise is drawn on the CPU, so that a run is the same on every device; with a list of generators, from one a
    sample; with None the latents are at that level already.
    """
    noisy = clean = family.latents(arguments)
    level = sigma.to(clean.device)
    if generator is not None:
        noise = randn_tensor(clean.shape, generator=generator, device=torch.device("cpu")).to(clean.device)
        weight = level.view(-1, *[1] * (clean.ndim - 1))
        noisy = torch.lerp(clean.float(), noise, weight).to(clean.dtype)
    arguments = dict(arguments)
    extra = arguments.pop("condition_latents", None)
    if extra is not None:
        noisy = torch.cat([noisy, extra.to(noisy.dtype)], dim=family.CHANNELS)
    return family.with_latents(arguments, noisy) | {family.TIME: family.timestep(level)}


@torch.no_grad()
def teacher_velocity(transformer: nn.Module, arguments: dict[str, Any], dtype: torch.dtype | None) -> Tensor:
    """The base's own velocity, float32 and without gradient."""
    return student_velocity(transformer, arguments, dtype)


def student_velocity(transformer: nn.Module, arguments: dict[str, Any], dtype: torch.dtype | None) -> Tensor:
    """The velocity of a coarse call, [B, ...] float32; ``arguments`` come from ``Family.coarse``."""
    with autocast(arguments, dtype):
        output = transformer(**arguments, return_dict=False)[0]
        return (output if isinstance(output, Tensor) else torch.stack(list(output))).float()


def autocast(arguments: dict[str, Any], dtype: torch.dtype | None) -> AbstractContextManager:
    """torch.autocast on the arguments' device, or nothing."""
    if dtype is None:
        return nullcontext()
    device = next(value.device for value in arguments.values() if isinstance(value, Tensor))
    return torch.autocast(device.type, dtype=dtype)


def squared_errors(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error and mean square of the teacher's velocity, per sample: [B] and [B]."""
    return (student - teacher).square().flatten(1).mean(1), teacher.square().flatten(1).mean(1)


@torch.no_grad()
def coarse_errors(
    transformer: nn.Module,
    family: Family,
    weights: ScaleWeights,
    arguments: dict[str, Any],
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`squared_errors` of one noisy batch, for measuring."""
    teacher = teacher_velocity(transformer, arguments, dtype)
    with family.coarse(arguments, weights, family.noise_level(arguments)) as coarse:
        student = student_velocity(transformer, coarse, dtype)
    return squared_errors(student, teacher)
