"""Arguments for the tests of the linear ops, and how closely each dtype must match the reference."""

import math

import torch

GRIDS = [(2, 1, 8, 8), (1, 3, 7, 5), (2, 2, 1, 3), (1, 1, 12, 9)]  # B, F, h, w
CHANNELS, P, WIDTH, RANK = 3, 2, 20, 4
TOLERANCE = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-10},
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    torch.float16: {"rtol": 4e-3, "atol": 8e-3},
    torch.bfloat16: {"rtol": 3e-2, "atol": 6e-2},
}


def tokens_of(grid: tuple[int, int, int, int], scale: int) -> int:
    _, frames, h, w = grid
    return frames * math.ceil(h / scale) * math.ceil(w / scale)


def _random(*shape: int, dtype: torch.dtype, device: str, size: float = 1.0) -> torch.Tensor:
    return (size * torch.randn(*shape)).to(device, dtype)


def embed_arguments(
    grid=GRIDS[0],
    scale=2,
    *,
    bias=True,
    lora=True,
    dtype=torch.float32,
    device="cpu",
    p=P,
    rank=RANK,
    channels=CHANNELS,
    width=WIDTH,
    seed=0,
) -> dict:
    torch.manual_seed(seed)
    like = {"dtype": dtype, "device": device}
    side = scale * p
    fan_in = (channels * side * side) ** -0.5
    return {
        "cells": _random(*grid, channels, p, p, **like),
        "weight": _random(width, channels, side, side, size=fan_in, **like),
        "bias": _random(width, **like) if bias else None,
        "lora_a": _random(rank, channels, side, side, size=fan_in, **like) if lora else None,
        "lora_b": _random(width, rank, **like) if lora else None,
        "lora_scale": 0.7,
        "scale": scale,
    }


def deembed_arguments(
    grid=GRIDS[0],
    scale=2,
    *,
    bias=True,
    lora=True,
    dtype=torch.float32,
    device="cpu",
    p=P,
    rank=RANK,
    channels=CHANNELS,
    width=WIDTH,
    seed=0,
) -> dict:
    torch.manual_seed(seed)
    like = {"dtype": dtype, "device": device}
    side = scale * p
    fan_in = width**-0.5
    return {
        "tokens": _random(grid[0], tokens_of(grid, scale), width, **like),
        "weight": _random(channels, side, side, width, size=fan_in, **like),
        "bias": _random(channels, side, side, **like) if bias else None,
        "lora_a": _random(rank, width, size=fan_in, **like) if lora else None,
        "lora_b": _random(channels, side, side, rank, **like) if lora else None,
        "lora_scale": 0.7,
        "scale": scale,
        "grid": list(grid[1:]),
    }


def on_meta(arguments: dict) -> dict:
    return {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}


def non_contiguous(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """The same values with permuted, gapped strides and a storage offset."""
    if tensor is None:
        return None
    order = tuple(reversed(range(tensor.dim())))
    larger = torch.empty([2 * size + 1 for size in tensor.permute(order).shape]).to(tensor)
    view = larger[tuple(slice(1, 2 * size + 1, 2) for size in tensor.permute(order).shape)].permute(order)
    return view.copy_(tensor)


def training_arguments(arguments: dict) -> dict:
    """Float64 leaves that ask for gradients."""
    return {
        name: value.double().requires_grad_() if isinstance(value, torch.Tensor) else value
        for name, value in arguments.items()
    }
