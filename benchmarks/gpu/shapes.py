"""The sizes that the ops are measured at: latents of real models, and random arguments of that size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddit_ext import cells as cell_views

RANK = 32
P = 2  # latent pixels along a side of a base patch, of FLUX and of Wan
SCALES = (1, 2, 4)
QUANTILE = 0.4


@dataclass(frozen=True)
class Shape:
    """A latent: its grid of base cells, the width of its tokens, and how it lies in memory."""

    name: str
    frames: int
    rows: int
    columns: int
    width: int  # D
    packed: bool  # FLUX's tokens [B, h*w, C*p*p]; else Wan's planes [B, C, F, H, W]
    channels: int = 16

    def tokens(self, scale: int) -> int:
        """Tokens of a sample when scale x scale cells are merged."""
        return self.frames * -(-self.rows // scale) * -(-self.columns // scale)

    def features(self, scale: int) -> int:
        """Latent numbers that a token stands for."""
        return self.channels * (scale * P) ** 2

    def latents(self, batch: int, dtype: torch.dtype, device: str) -> Tensor:
        """Random cells [B, F, h, w, C, p, p], a view of the model's own layout."""
        if self.packed:
            packed = torch.randn(batch, self.tokens(1), self.features(1), device=device)
            return cell_views.from_packed(packed.to(dtype), self.rows, self.columns, P)
        planes = torch.randn(
            batch, self.channels, self.frames, self.rows * P, self.columns * P, device=device
        )
        return cell_views.from_latents(planes.to(dtype), P)


SHAPES = (
    Shape("FLUX 1024x1024", 1, 64, 64, 3072, True),
    Shape("Wan 1.3B 832x480, 81 frames", 21, 30, 52, 1536, False),
    Shape("FLUX 1360x768", 1, 48, 85, 3072, True),
    Shape("FLUX 2048x2048", 1, 128, 128, 3072, True),
    Shape("Wan 14B 1280x720, 81 frames", 21, 45, 80, 5120, False),
)
TINY = (Shape("tiny packed", 1, 5, 6, 24, True, 4), Shape("tiny planes", 2, 4, 6, 16, False, 4))


def embed_arguments(shape: Shape, batch: int, scale: int, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Random arguments of `patch_embed`, with bias and LoRA; tokens of about unit variance.

    Merged cells have a factor, as a coarse call's noise matching gives them.
    """
    side, fan_in = scale * P, shape.features(scale)
    random = _random(dtype, device)
    return {
        "cells": shape.latents(batch, dtype, device),
        "weight": random(shape.width, shape.channels, side, side, size=fan_in**-0.5),
        "bias": random(shape.width),
        "lora_a": random(RANK, shape.channels, side, side, size=fan_in**-0.5),
        "lora_b": random(shape.width, RANK, size=RANK**-0.5),
        "lora_scale": 0.5,
        "scale": scale,
        "input_scale": None if scale == 1 else torch.full((1, 1), 1.2, device=device),
    }


def deembed_arguments(
    shape: Shape, batch: int, scale: int, dtype: torch.dtype, device: str
) -> dict[str, Any]:
    """Random arguments of `patch_deembed`, with bias and LoRA."""
    side = scale * P
    random = _random(dtype, device)
    return {
        "tokens": random(batch, shape.tokens(scale), shape.width),
        "weight": random(shape.channels, side, side, shape.width, size=shape.width**-0.5),
        "bias": random(shape.channels, side, side),
        "lora_a": random(RANK, shape.width, size=shape.width**-0.5),
        "lora_b": random(shape.channels, side, side, RANK, size=RANK**-0.5),
        "lora_scale": 0.5,
        "scale": scale,
        "grid": [shape.frames, shape.rows, shape.columns],
    }


def _random(dtype: torch.dtype, device: str):
    def random(*shape: int, size: float = 1.0) -> Tensor:
        return (size * torch.randn(*shape, device=device)).to(dtype)

    return random
