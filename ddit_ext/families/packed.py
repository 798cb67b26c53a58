"""Families whose pipelines pack a picture's latent into tokens [B, N, C·p·p], clean reference tokens behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .. import cells as cell_views
from ..coarse.coarse_step import CoarseStep
from ..modules.context_parallel import Ranks
from ..modules.stand_in import StandIn
from .base import Family, on_grid
from .encoder import cut
from .grid import Grid


class Packed(StandIn):
    """Stands in a layer that packed tokens go through in a coarse call."""

    def __init__(self, step: CoarseStep, base: nn.Module, grid: Grid, ranks: Ranks | None) -> None:
        super().__init__(base)
        self.step, self.grid, self.ranks = step, grid, ranks


class PackedEmbedding(Packed):
    """Stands in the patch embedding: tokens of merged cells for the latent, base tokens for the references."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        tokens = self.step.tokens()
        if self.ranks is not None:  # hidden_states is a rank's part of the base tokens
            return self.ranks.part(tokens, 1)
        if self.grid.references:
            base = self.base(hidden_states[:, self.grid.tokens :])
            tokens = torch.cat([tokens.to(base), base], dim=1)
        return tokens


class PackedProjection(Packed):
    """Stands in the output projection: tokens of merged cells back to packed base tokens [B, N, C_out·p·p]."""

    def forward(self, tokens: Tensor) -> Tensor:
        if self.ranks is not None:
            tokens = self.ranks.whole(tokens, 1)
        own = tokens.shape[1] - self.grid.references
        velocity = self.step.velocity(tokens[:, :own])
        packed = velocity.flatten(4).flatten(1, 3).to(tokens)
        if self.grid.references:
            packed = torch.cat([packed, self.base(tokens[:, own:]).to(packed)], dim=1)
        return packed


class PackedFamily(Family):
    """What packed families share. A family's own file says where the grid and the positions are."""

    CHANNELS = -1

    def noisy(self, latents: Tensor) -> Tensor:
        """Packed tokens [B, N, C_out·p·p], references among them."""
        return latents[..., : self.features]

    @property
    def features(self) -> int:
        """C_out·p·p: of a packed token of the noisy latent."""
        return self.out_channels * self.patch_size**2

    def tokens(self, arguments: dict[str, Any], scale: int) -> int:
        """Image and reference tokens of a sample; for scale 1 without a look at the positions."""
        if scale == 1:
            return self.latents(arguments).shape[1]
        grid = self.grid(arguments)
        return grid.coarse_tokens(scale) + grid.references

    def cells(self, arguments: dict[str, Any], grid: Grid) -> Tensor:
        """A view [B, 1, h, w, C_in, p, p] of the latent's own tokens, the noisy channels first."""
        own = self.latents(arguments)[:, : grid.tokens]
        return cell_views.from_packed(own, grid.rows, grid.columns, self.patch_size)

    def signal_view(self, arguments: dict[str, Any]) -> Callable[[Tensor], Tensor]:
        """As `Family.signal_view`, for packed tokens [B, N, >= C_out·p·p] or pictures [B, C_out, H, W]."""
        return self._kept_view(_cells_of, self.grid(arguments), self.out_channels, self.patch_size)

    def stand_ins(self, step: CoarseStep, grid: Grid) -> dict[str, nn.Module]:
        """The modules of a coarse call that replace the embedding and the output projection."""
        embedding, output = self.replaced
        module = self.transformer.get_submodule
        return {
            embedding: PackedEmbedding(step, module(embedding), grid, self.ranks),
            output: PackedProjection(step, module(output), grid, self.ranks),
        }

    def training_call(self, latents: Tensor, conditions: dict[str, Any]) -> dict[str, Any]:
        """As `Family.training_call`, on packed tokens [B, N, C·p·p] or an image [B, C, H, W]."""
        arguments, p = cut(conditions), self.patch_size
        if latents.ndim == 4:
            batch, channels, height, width = latents.shape
            if height % p or width % p:
                even = "even sides" if p == 2 else f"sides that are multiples of {p}"
                raise ValueError(f"latents [B, C, H, W] must have {even}, got {tuple(latents.shape)}")
            rows, columns = height // p, width // p
            packed = latents.view(batch, channels, rows, p, columns, p).permute(0, 2, 4, 1, 3, 5)
            latents = packed.reshape(batch, rows * columns, channels * p * p)
            arguments = self.places(batch, rows, columns, latents) | arguments
        elif latents.ndim != 3:
            raise ValueError(
                f"latents must have shape [B, N, C·{p * p}] or [B, C, H, W], got {tuple(latents.shape)}"
            )
        return self.finished(arguments | {self.LATENTS: latents})

    def state(self, arguments: dict[str, Any]) -> Tensor:
        """As `Family.state`: an image [C, H, W], with the clean conditions' channels."""
        cells = self.cells(arguments, self.grid(arguments))[0, 0]
        return cells.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)

    def places(self, batch: int, rows: int, columns: int, like: Tensor) -> dict[str, Any]:
        """The arguments that say where the tokens of a picture lie, on the device of `like`."""
        raise NotImplementedError

    def example_latents(self, frames: int, rows: int, columns: int, like: Tensor) -> dict[str, Any]:
        features = self.in_channels * self.patch_size**2
        return self.places(1, rows, columns, like) | {
            self.LATENTS: like.new_empty(1, rows * columns, features)
        }


def _cells_of(grid: Grid, channels: int, patch: int, latents: Tensor) -> Tensor:
    if latents.ndim == 3 and latents.shape[1] >= grid.tokens:
        own = latents[:, : grid.tokens, : channels * patch**2]
        return on_grid(cell_views.from_packed(own, grid.rows, grid.columns, patch), grid, channels)
    if latents.ndim != 4:
        raise ValueError(
            f"latents of shape {tuple(latents.shape)} don't lie on a grid of {grid.tokens} tokens"
        )
    return on_grid(cell_views.from_latents(latents, patch), grid, channels)
