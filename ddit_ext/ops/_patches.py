"""Cells to patches and back in library calls, for the backward passes.

Each forward op moves pixels one way; its backward is the adjoint. Reading repeats the last pixel row and
column at a ragged edge: its adjoint adds up what was repeated. Writing crops: its adjoint fills with zeros.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def ceil_div(n: int, d: int) -> int:
    return -(-n // d)


def gather(cells: Tensor, scale: int, edge: str) -> Tensor:
    """[B, F, h, w, C, p, p] -> [B*N, C*(s*p)^2]; edge: "repeat" or "zero"."""
    batch, frames, h, w, channels, p, _ = cells.shape
    rows, cols, side = ceil_div(h, scale), ceil_div(w, scale), scale * p
    picture = cells.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, frames * channels, h * p, w * p)
    over = (0, cols * side - w * p, 0, rows * side - h * p)
    if any(over):
        picture = F.pad(picture, over, mode="replicate" if edge == "repeat" else "constant")
    cut = picture.reshape(batch, frames, channels, rows, side, cols, side).permute(0, 1, 3, 5, 2, 4, 6)
    return cut.reshape(batch * frames * rows * cols, channels * side * side)


def scatter_add(patches: Tensor, shape: tuple[int, ...], scale: int) -> Tensor:
    """The adjoint of gather(edge="repeat"): [B*N, C*(s*p)^2] -> cells of `shape`."""
    batch, frames, h, w, channels, p, _ = shape
    rows, cols, side = ceil_div(h, scale), ceil_div(w, scale), scale * p
    picture = patches.reshape(batch, frames, rows, cols, channels, side, side).permute(0, 1, 4, 2, 5, 3, 6)
    picture = picture.reshape(batch, frames, channels, rows * side, cols * side)
    picture = _fold_end(picture, 3, h * p)
    picture = _fold_end(picture, 4, w * p)
    return picture.reshape(batch, frames, channels, h, p, w, p).permute(0, 1, 3, 5, 2, 4, 6)


def _fold_end(picture: Tensor, dim: int, size: int) -> Tensor:
    """Crops `dim` to `size` and adds what was cut off to the last entry that stays."""
    if picture.shape[dim] == size:
        return picture
    kept = picture.narrow(dim, 0, size - 1)
    folded = picture.narrow(dim, size - 1, picture.shape[dim] - size + 1).sum(dim, keepdim=True)
    return torch.cat((kept, folded), dim)
