"""How far a coarse step is from the base, per noise level."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..coarse.adapter import Adapter
from ..families import family_for
from .objective import add_noise, coarse_errors


@torch.no_grad()
def evaluate_coarse_error(
    transformer: nn.Module,
    adapter: Adapter,
    batches: Iterable[tuple[Tensor, dict[str, Any]]],
    scale: int,
    sigmas: Sequence[float],
    *,
    seed: int = 0,
    autocast: torch.dtype | None = None,
) -> dict[float, float]:
    """Relative squared error of the velocity at ``scale``, ‖v_s - v_1‖² / ‖v_1‖², for every noise level.

    Args:
        transformer: the base model.
        adapter: training-free or trained; its mode is left as it is.
        batches: a finite iterable of pairs as :func:`distill` takes them, but of clean latents.
        scale: the patch size to measure.
        sigmas: noise levels in [0, 1].
        seed: of the noise, the same for every level.

    Returns:
        noise level -> summed squared error over summed square of the base's velocity.

    Raises:
        ValueError: no batch, or one of noisy latents.
    """
    family = family_for(transformer)
    device = next(transformer.parameters()).device
    totals = {sigma: [0.0, 0.0] for sigma in sigmas}
    count = 0
    for latents, conditions in batches:
        if "noise_level" in conditions:
            raise ValueError("batches must be of clean latents, got some with noise_level")
        latents = latents.to(device)
        conditions = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in conditions.items()}
        clean = family.training_call(latents, conditions)
        weights = adapter.weights(scale, family.latents(clean))
        for sigma in sigmas:
            generator = torch.Generator().manual_seed(seed + count)
            arguments = add_noise(family, clean, torch.full((latents.shape[0],), float(sigma)), generator)
            error, power = coarse_errors(transformer, family, weights, arguments, autocast)
            totals[sigma][0] += error.sum().item()
            totals[sigma][1] += power.sum().item()
        count += 1
    if not count:
        raise ValueError("batches must hold at least one batch, got none")
    return {sigma: error / max(power, 1e-12) for sigma, (error, power) in totals.items()}
