"""Rectified flow as FLUX is trained: noise levels, noisy latents, the transformer's call."""

from __future__ import annotations

import math

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel

from .architecture import PATCH

SHIFT = math.exp(0.5)  # what FLUX's sampler shifts by at 256 tokens


def noise_levels(count: int, shift: float) -> torch.Tensor:
    """Logit-normal noise levels in (0, 1), shifted towards noise as the sampler does: float32 ``[count]``.

    Stratified: one of them in each of ``count`` equally likely parts, which makes a small batch's loss less noisy.
    """
    quantiles = (torch.randperm(count) + torch.rand(count).clamp(1e-4, 1 - 1e-4)) / count
    uniform = torch.sigmoid(torch.special.ndtri(quantiles))
    return shift * uniform / (1 + (shift - 1) * uniform)


def pack(latents: torch.Tensor) -> torch.Tensor:
    """``[B, C, H, W]`` -> FLUX's tokens ``[B, H/2 * W/2, C * 4]``."""
    return FluxPipeline._pack_latents(latents, *latents.shape)


def image_ids(latents: torch.Tensor) -> torch.Tensor:
    height, width = latents.shape[-2] // PATCH, latents.shape[-1] // PATCH
    return FluxPipeline._prepare_latent_image_ids(1, height, width, latents.device, torch.float32)


def velocity(
    transformer: FluxTransformer2DModel,
    tokens: torch.Tensor,  # [B, N, 16]
    sigma: torch.Tensor,  # [B], in [0, 1]
    text: torch.Tensor,  # [B, L, 96]
    pooled: torch.Tensor,  # [B, 64]
    ids: torch.Tensor,  # [N, 3]
    guidance: torch.Tensor,  # [B]
) -> torch.Tensor:
    return transformer(
        hidden_states=tokens,
        timestep=sigma,
        guidance=guidance,
        encoder_hidden_states=text,
        pooled_projections=pooled,
        txt_ids=torch.zeros(text.shape[1], 3),
        img_ids=ids,
        return_dict=False,
    )[0]
