"""The grid of a latent's tokens, and where the tokens of merged cells stand on it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Grid:
    """The base patch grid of a latent: frames x rows x columns tokens, then `references` clean tokens.

    `origin` is the position of the first row and column, as the model's ids count them.
    """

    frames: int
    rows: int
    columns: int
    references: int = 0
    origin: tuple[float, float] = (0.0, 0.0)

    @property
    def tokens(self) -> int:
        """Tokens of the latent itself at the base patch size, references not counted."""
        return self.frames * self.rows * self.columns

    def coarse(self, scale: int) -> tuple[int, int, int]:
        """Frames, rows and columns after merging scale x scale cells; a ragged edge gets a cell too."""
        return self.frames, -(-self.rows // scale), -(-self.columns // scale)

    def coarse_tokens(self, scale: int) -> int:
        """Tokens of the latent itself when scale x scale cells are merged."""
        frames, rows, columns = self.coarse(scale)
        return frames * rows * columns


def centres(count: int, scale: int, positions: str, device: torch.device) -> Tensor:
    """Float32 coordinates of `count` merged cells along one axis, in units of base cells.

    "centre": s*i + (s-1)/2, the middle of the merged cells, at a ragged edge as well;
    "grid": i, as if the coarse grid were a smaller picture.
    """
    index = torch.arange(count, dtype=torch.float32, device=device)
    if positions == "centre":
        return index * scale + (scale - 1) / 2
    if positions == "grid":
        return index
    raise ValueError(f"positions must be 'centre' or 'grid', got {positions!r}")


def pool_tokens(tokens: Tensor, grid: Grid, scale: int) -> Tensor:
    """Mean over scale x scale cells of per-token features [B, tokens (+ references), D].

    At a ragged edge the mean is over the cells that exist. Reference tokens pass as they are.
    """
    batch, length, width = tokens.shape
    if length not in (grid.tokens, grid.tokens + grid.references):
        raise ValueError(
            f"a per-token residual must have {grid.tokens} tokens, the {grid.rows}x{grid.columns} grid of "
            f"the latent, got shape {tuple(tokens.shape)}"
        )
    own = tokens[:, : grid.tokens].reshape(batch * grid.frames, grid.rows, grid.columns, width)
    pooled = functional.avg_pool2d(own.permute(0, 3, 1, 2), scale, ceil_mode=True)
    pooled = pooled.permute(0, 2, 3, 1).reshape(batch, grid.coarse_tokens(scale), width)
    return torch.cat([pooled, tokens[:, grid.tokens :]], dim=1) if length > grid.tokens else pooled


def pool_latents(latents: Tensor, grid: Grid, scale: int, patch: int) -> Tensor:
    """Means over scale x scale pixels of clean conditions [B, C, F, h*p, w*p], the edges repeated to whole cells.

    A base patch of the result [B, C, F, h'*p, w'*p] is what a merged patch of scale x scale cells sees.
    """
    height, width = grid.rows * patch, grid.columns * patch
    if latents.ndim != 5 or tuple(latents.shape[3:]) != (height, width):
        raise ValueError(
            f"a condition must have shape [B, C, F, {height}, {width}], the size of the latent, "
            f"got {tuple(latents.shape)}"
        )
    _, rows, columns = grid.coarse(scale)
    below, right = rows * scale * patch - height, columns * scale * patch - width
    frames = latents.transpose(1, 2).flatten(0, 1).float()
    pooled = functional.avg_pool2d(functional.pad(frames, (0, right, 0, below), mode="replicate"), scale)
    return pooled.unflatten(0, (latents.shape[0], latents.shape[2])).transpose(1, 2).to(latents.dtype)
