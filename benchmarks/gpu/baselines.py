"""What the linear ops are compared with: the same computation out of PyTorch's own functions, in the same dtype.

`ddit_ext.reference` computes in float32, for exactness; these are what one would write for speed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ddit_ext.ops._patches import ceil_div, gather


def eager_embed(
    cells: Tensor,
    weight: Tensor,
    bias: Tensor,
    lora_a: Tensor | None,
    lora_b: Tensor | None,
    lora_scale: float,
    scale: int,
    input_scale: Tensor | None = None,
) -> Tensor:
    """As `ddit_ext.ops.patch_embed`: scale, gather, multiply, add the LoRA unfused."""
    if input_scale is not None:
        cells = (cells * input_scale[:, None, None, None, :, None, None]).to(weight.dtype)
    patches = gather(cells, scale, edge="repeat").unflatten(0, (cells.shape[0], -1))
    return _linear(patches, weight.flatten(1), bias, _flat(lora_a, 1, 3), lora_b, lora_scale)


def eager_deembed(
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor,
    lora_a: Tensor | None,
    lora_b: Tensor | None,
    lora_scale: float,
    scale: int,
    grid: Sequence[int],
) -> Tensor:
    """As `ddit_ext.ops.patch_deembed`: multiply, add the LoRA unfused, lay out and crop."""
    frames, h, w = grid
    channels, side = weight.shape[:2]
    p = side // scale
    patches = _linear(tokens, weight.flatten(0, 2), bias.flatten(), lora_a, _flat(lora_b, 0, 2), lora_scale)
    patches = patches.unflatten(2, (channels, scale, p, scale, p))
    patches = patches.unflatten(1, (frames, ceil_div(h, scale), ceil_div(w, scale)))
    # [B, F, rows, columns, C, s, p, s, p] -> [B, F, rows*s, columns*s, C, p, p]
    cells = patches.permute(0, 1, 2, 5, 3, 7, 4, 6, 8).flatten(4, 5).flatten(2, 3)
    return cells[:, :, :h, :w].contiguous()


def ready_embed(arguments: dict[str, Any]) -> dict[str, Callable[[], Tensor]]:
    """Library calls on patches, or a picture, that lie ready: what no embedding of its own can do without."""
    cells, weight, bias, scale = (arguments[name] for name in ("cells", "weight", "bias", "scale"))
    patches = gather(cells, scale, edge="repeat")
    matrix, side = weight.flatten(1), weight.shape[-1]
    batch, frames, h, w, channels, p, _ = cells.shape
    picture = cells.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch * frames, channels, h * p, w * p)
    over = (0, -w * p % side, 0, -h * p % side)
    picture = F.pad(picture, over, mode="replicate") if any(over) else picture.contiguous()
    lora_a, lora_b = _flat(arguments["lora_a"], 1, 3), arguments["lora_b"]
    return {
        "F.linear, ready": lambda: _linear(patches, matrix, bias, lora_a, lora_b, arguments["lora_scale"]),
        "F.conv2d, ready": lambda: F.conv2d(picture, weight, bias, stride=side),
    }


def ready_deembed(arguments: dict[str, Any]) -> dict[str, Callable[[], Tensor]]:
    """The product alone, its result left as it comes."""
    tokens, matrix, bias = arguments["tokens"], arguments["weight"].flatten(0, 2), arguments["bias"].flatten()
    lora_a, lora_b = arguments["lora_a"], _flat(arguments["lora_b"], 0, 2)
    return {"F.linear, ready": lambda: _linear(tokens, matrix, bias, lora_a, lora_b, arguments["lora_scale"])}


def _flat(tensor: Tensor | None, first: int, last: int) -> Tensor | None:
    return None if tensor is None else tensor.flatten(first, last)


def _linear(
    x: Tensor, matrix: Tensor, bias: Tensor, lora_a: Tensor | None, lora_b: Tensor | None, lora_scale: float
) -> Tensor:
    out = F.linear(x, matrix, bias)
    return out if lora_a is None else out + F.linear(F.linear(x, lora_a) * lora_scale, lora_b)
