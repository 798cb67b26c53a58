"""The least time that an op can take: the bytes it must move, the operations it must do, at measured ceilings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .shapes import RANK, Shape

PRODUCT = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float32"}
"""The measured product whose throughput bounds a dtype. float32 is computed in float32, not in tf32."""


def bytes_of(*tensors: Tensor) -> int:
    """Each number once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def linear_flops(shape: Shape, batch: int, scale: int, lora: bool) -> int:
    """The FLOPs of `patch_embed` or `patch_deembed`: the product, and a LoRA where it is cheapest, merged into the weight or kept
    low-rank."""
    tokens, features, width = batch * shape.tokens(scale), shape.features(scale), shape.width
    merged, apart = features * width, tokens * (features + width)
    return 2 * (tokens * features * width + (RANK * min(merged, apart) if lora else 0))


def floor(ceilings: dict[str, Any], moved: int, flops: int, dtype: torch.dtype) -> dict[str, Any]:
    """{"bytes", "flops", "floor_s", "bound"}: the larger of two times, and which of the two it is.

    ceilings: results of the stage `ceilings`; where they are missing there is no floor.
    """
    found = {"bytes": moved, "flops": flops, "floor_s": None, "bound": None}
    copy, product = ceilings.get("copy"), ceilings.get(PRODUCT[dtype])
    if copy and product:
        moving, computing = moved / copy["bytes_per_s"], flops / product["flops_per_s"]
        found["floor_s"] = max(moving, computing)
        found["bound"] = "bytes" if moving >= computing else "flops"
    return found
