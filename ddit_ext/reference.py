"""The three ops in plain PyTorch: slow, readable, and the truth in the tests.

Shapes are those of `ddit_ext.ops`. Everything is computed in float32, or in float64 for float64 input, and
rounded once, at the end. Arguments are not checked.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def patch_embed(
    cells: Tensor,  # [B, F, h, w, C, p, p]
    weight: Tensor,  # [D, C, s*p, s*p]
    bias: Tensor | None = None,  # [D]
    lora_a: Tensor | None = None,  # [r, C, s*p, s*p]
    lora_b: Tensor | None = None,  # [D, r]
    lora_scale: float = 1.0,
    scale: int = 1,
    input_scale: Tensor | None = None,  # [B or 1, C or 1]
) -> Tensor:  # [B, F*ceil(h/s)*ceil(w/s), D]
    cells = _accumulated(cells)
    if input_scale is not None:
        cells = cells * input_scale[:, None, None, None, :, None, None]
    patches = _patches(cells, scale).flatten(2)  # [B, N, C*(s*p)^2]
    matrix = _accumulated(weight).flatten(1)
    if lora_a is not None:
        matrix = matrix + lora_scale * (_accumulated(lora_b) @ _accumulated(lora_a).flatten(1))
    tokens = patches @ matrix.T
    if bias is not None:
        tokens = tokens + _accumulated(bias)
    return tokens.to(weight.dtype)


def patch_deembed(
    tokens: Tensor,  # [B, F*ceil(h/s)*ceil(w/s), D]
    weight: Tensor,  # [C, s*p, s*p, D]
    bias: Tensor | None = None,  # [C, s*p, s*p]
    lora_a: Tensor | None = None,  # [r, D]
    lora_b: Tensor | None = None,  # [C, s*p, s*p, r]
    lora_scale: float = 1.0,
    scale: int = 1,
    grid: Sequence[int] | None = None,  # [F, h, w] of the base cells
) -> Tensor:  # [B, F, h, w, C, p, p]
    frames, h, w = grid
    channels, side = weight.shape[:2]
    full = _accumulated(weight)
    if lora_a is not None:
        full = full + lora_scale * (_accumulated(lora_b) @ _accumulated(lora_a))
    patches = torch.einsum("bnd,cyxd->bncyx", _accumulated(tokens), full)
    if bias is not None:
        patches = patches + _accumulated(bias)
    # Lay the patches out as one picture, crop what hangs over, cut the picture into cells.
    rows, cols, p = math.ceil(h / scale), math.ceil(w / scale), side // scale
    batch = tokens.shape[0]
    picture = patches.reshape(batch, frames, rows, cols, channels, side, side).permute(0, 1, 4, 2, 5, 3, 6)
    picture = picture.reshape(batch, frames, channels, rows * side, cols * side)[..., : h * p, : w * p]
    cells = picture.reshape(batch, frames, channels, h, p, w, p).permute(0, 1, 3, 5, 2, 4, 6)
    return cells.to(tokens.dtype).contiguous()


def acceleration_quantiles(
    z0: Tensor,  # [B, F, h, w, C, p, p], the newest
    z1: Tensor,
    z2: Tensor,
    z3: Tensor,
    scales: Sequence[int] = (1, 2, 4),
    quantile: float = 0.4,
) -> Tensor:  # [B, len(scales)] float32
    z0, z1, z2, z3 = (_accumulated(z) for z in (z0, z1, z2, z3))
    acceleration = _picture(z0 - 3 * z1 + 3 * z2 - z3)  # [B, F, C, h*p, w*p]
    base = z0.shape[-1]
    result = torch.empty(z0.shape[0], len(scales), dtype=torch.float32, device=z0.device)
    for sample in range(z0.shape[0]):
        for k, scale in enumerate(scales):
            side = scale * base
            sigmas = [
                patch.var(dim=(-2, -1), unbiased=False).mean().sqrt()  # a cut patch has fewer pixels
                for frame in acceleration[sample]
                for rows in frame.split(side, dim=-2)
                for patch in rows.split(side, dim=-1)  # [C, up to side, up to side]
            ]
            result[sample, k] = torch.quantile(torch.stack(sigmas), quantile, interpolation="linear")
    return result


def _accumulated(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _picture(cells: Tensor) -> Tensor:
    """[B, F, h, w, C, p, p] -> [B, F, C, h*p, w*p]"""
    batch, frames, h, w, channels, p, _ = cells.shape
    return cells.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, frames, channels, h * p, w * p)


def _patches(cells: Tensor, scale: int) -> Tensor:
    """[B, F, h, w, C, p, p] -> [B, N, C, s*p, s*p]; ragged edges repeat the last pixel row and column."""
    batch, frames, h, w, channels, p, _ = cells.shape
    rows, cols, side = math.ceil(h / scale), math.ceil(w / scale), scale * p
    pixel_rows = torch.arange(rows * side, device=cells.device).clamp(max=h * p - 1)
    pixel_cols = torch.arange(cols * side, device=cells.device).clamp(max=w * p - 1)
    picture = _picture(cells)[..., pixel_rows, :][..., pixel_cols]
    cut = picture.reshape(batch, frames, channels, rows, side, cols, side).permute(0, 1, 3, 5, 2, 4, 6)
    return cut.reshape(batch, frames * rows * cols, channels, side, side)
