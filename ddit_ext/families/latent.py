"""Families whose transformers take latents [B, C, H, W] or [B, C, F, H, W]; space is merged, frames are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .. import cells as cell_views
from ..coarse.coarse_step import CoarseStep
from ..coarse.patch_layers import layers_of
from ..modules.context_parallel import Ranks
from .base import Family, on_grid
from .encoder import cut
from .grid import Grid


class CoarsePositions(nn.Module):
    """Stands in the rotary embedding: the tables of merged cells; of ranks their own part, [1, tokens, ...]."""

    def __init__(self, cos: Tensor, sin: Tensor, ranks: Ranks | None = None) -> None:
        super().__init__()
        self.cos, self.sin = (cos, sin) if ranks is None else (ranks.part(cos, 1), ranks.part(sin, 1))

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        return self.cos, self.sin


class CoarseEmbedding(nn.Module):
    """Stands in the patch embedding: tokens of merged cells [B, N, D]."""

    def __init__(self, step: CoarseStep) -> None:
        super().__init__()
        self.step = step

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.step.tokens()


class CoarseProjection(nn.Module):
    """Stands in the output projection: tokens of merged cells to base tokens [B, N, C_out·p·p] of the model's order."""

    def __init__(self, step: CoarseStep, fastest: bool, ranks: Ranks | None) -> None:
        super().__init__()
        self.step = step
        self.fastest = fastest  # whether the channel is the fastest
        self.ranks = ranks

    def forward(self, tokens: Tensor) -> Tensor:
        if self.ranks is not None:
            tokens = self.ranks.whole(tokens, 1)
        velocity = self.step.velocity(tokens)
        if self.fastest:
            velocity = velocity.permute(0, 1, 2, 3, 5, 6, 4)
        return velocity.flatten(4).flatten(1, 3).to(tokens)


class WholeProjection(nn.Module):
    """Stands in the last layer of a model that makes latents itself: [B, C, F, H, W] of the tokens that lead a sequence."""

    def __init__(self, step: CoarseStep, tokens: int, sign: int) -> None:
        super().__init__()
        self.step = step
        self.tokens = tokens
        self.sign = sign

    def forward(self, hidden: Tensor) -> Tensor:
        velocity = self.sign * self.step.velocity(hidden[:, : self.tokens])
        return velocity.permute(0, 4, 1, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4).to(hidden)


class LatentFamily(Family):
    """What families of latents share. A family's own file says where the positions are."""

    CHANNELS = 1
    DIMENSIONS = 5  # of the latents

    def noisy(self, latents: Tensor) -> Tensor:
        """The latent [B, C_out, F, H, W] or [B, C_out, H, W]."""
        return latents[:, : self.out_channels]

    def tokens(self, arguments: dict[str, Any], scale: int) -> int:
        """Image tokens of a sample."""
        if scale > 1:
            return self.grid(arguments).coarse_tokens(scale)
        *frames, height, width = self.latents(arguments).shape[2:]
        return (frames or [1])[0] * (height // self.patch_size) * (width // self.patch_size)

    def grid(self, arguments: dict[str, Any]) -> Grid:
        """The grid of the latents; ValueError for sides that are no multiples of the patch."""
        latents, p = self.latents(arguments), self.patch_size
        if latents.ndim != self.DIMENSIONS:
            shape = "[B, C, F, H, W]" if self.DIMENSIONS == 5 else "[B, C, H, W]"
            raise ValueError(f"{self.LATENTS} must have shape {shape}, got {tuple(latents.shape)}")
        *frames, height, width = latents.shape[2:]
        if height % p or width % p:
            raise ValueError(
                f"{self.LATENTS}: height and width must be multiples of {p} for coarse patches, "
                f"got {height} x {width}"
            )
        return Grid((frames or [1])[0], height // p, width // p)

    def cells(self, arguments: dict[str, Any], grid: Grid) -> Tensor:
        """A view [B, F, h, w, C_in, p, p] of the latents, the noisy channels first."""
        return cell_views.from_latents(self.latents(arguments), self.patch_size)

    def signal_view(self, arguments: dict[str, Any]) -> Callable[[Tensor], Tensor]:
        return self._kept_view(
            cells_of, self.grid(arguments), self.generated(arguments), self.out_channels, self.patch_size
        )

    def generated(self, arguments: dict[str, Any]) -> tuple[int, ...] | None:
        """The frames that the sampler denoises; None: all of them."""
        return None

    def projection(self, step: CoarseStep) -> CoarseProjection:
        """What stands in the output projection."""
        fastest = layers_of(self.transformer).output_order == "channel_fastest"
        return CoarseProjection(step, fastest, self.ranks)

    def training_call(self, latents: Tensor, conditions: dict[str, Any]) -> dict[str, Any]:
        """As `Family.training_call`, on [B, C_out, F, H, W] or [B, C_out, H, W]."""
        p, shape = self.patch_size, "[B, C, F, H, W]" if self.DIMENSIONS == 5 else "[B, C, H, W]"
        if latents.ndim != self.DIMENSIONS or latents.shape[-2] % p or latents.shape[-1] % p:
            even = "even sides" if p == 2 else f"sides that are multiples of {p}"
            raise ValueError(f"latents must have shape {shape}, {even}, got {tuple(latents.shape)}")
        return self.finished(self.with_latents(cut(conditions), latents))

    def example_latents(self, frames: int, rows: int, columns: int, like: Tensor) -> dict[str, Any]:
        sides = (self.patch_size * rows, self.patch_size * columns)
        shape = (frames, *sides) if self.DIMENSIONS == 5 else sides
        return self.with_latents({}, like.new_empty(1, self.in_channels, *shape))


def cells_of(
    grid: Grid, frames: tuple[int, ...] | None, channels: int, patch: int, latents: Tensor
) -> Tensor:
    """Cells of a noisy latent, of the `frames` that are generated alone."""
    cells = on_grid(cell_views.from_latents(latents, patch), grid, channels)
    return cells if frames is None or len(frames) == grid.frames else cells[:, list(frames)]


@torch.no_grad()
def merged_rotary(
    tables: Callable[[int, int, int], tuple[Tensor, Tensor]], grid: Grid, scale: int, positions: str
) -> tuple[Tensor, Tensor]:
    """A model's own rotary tables at the places of merged cells: cosines and sines [N_s, head width].

    "centre" lies on a cell for odd scales and halfway between two for even ones. The rotation halfway between two
    is the direction of their sum, since neighbours are at most one radian apart: the model's frequencies need not be
    known. "grid": as if the coarse grid were a smaller picture.

    tables: the model's cosines and sines of so many frames, rows and columns, of any shape with the head width last.
    """
    frames, rows, columns = grid.coarse(scale)
    if positions == "grid":
        cos, sin = tables(frames, rows, columns)
        return cos.flatten(0, -2), sin.flatten(0, -2)
    middle = [(scale - 1) // 2, scale // 2]
    cos, sin = (
        table.float()
        .reshape(frames, rows, scale, columns, scale, -1)[:, :, middle][:, :, :, :, middle]
        .sum((2, 4))
        .flatten(0, 2)
        for table in tables(frames, rows * scale, columns * scale)
    )
    length = torch.hypot(cos, sin)
    return cos / length, sin / length
