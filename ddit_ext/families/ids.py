"""Packed families whose calls say where each token stands: `img_ids` [N, 3 or 4], row and column in the second and third."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..coarse.coarse_step import CoarseStep
from ..coarse.scale_weights import ScaleWeights
from .grid import Grid, centres
from .model import needed
from .packed import PackedFamily


class IdsFamily(PackedFamily):
    """FLUX and what follows it. The first column of an id is 0 for the latent, something else for references."""

    IDS: ClassVar[int] = 3  # columns

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._ids: tuple[weakref.ref[Tensor], int, int, Grid, dict[tuple[int, str], Tensor]] | None = None

    def grid(self, arguments: dict[str, Any]) -> Grid:
        """The grid of the latent's tokens and the number of reference tokens.

        Read once per ids tensor. ValueError where the ids are not a full grid in row-major order.
        """
        ids, tokens = needed(arguments, "img_ids"), self.latents(arguments).shape[1]
        version = version_of(ids)
        if self._ids is not None:
            known, at_version, at_tokens, grid, _ = self._ids
            if known() is ids and at_version == version and at_tokens == tokens:
                return grid
        grid = read_grid(ids, tokens, self.IDS)
        self._ids = (weakref.ref(ids), version, tokens, grid, {})
        return grid

    def coarse_ids(self, ids: Tensor, grid: Grid, weights: ScaleWeights) -> Tensor:
        """Float32 ids of the merged cells: bf16, as pipelines have it, is inexact beyond 128 cells."""
        known = self._ids[-1]
        key = (weights.scale, weights.positions)
        if key not in known:
            _, rows, columns = grid.coarse(weights.scale)
            own = torch.zeros(rows, columns, self.IDS, device=ids.device)
            own[..., 1] = (centres(rows, *key, ids.device) + grid.origin[0])[:, None]
            own[..., 2] = centres(columns, *key, ids.device) + grid.origin[1]
            merged = torch.cat([own.flatten(0, 1), flat(ids)[grid.tokens :].float()])
            known[key] = merged if ids.ndim == 2 else merged[None]
        return known[key]

    def _rewrite(
        self, arguments: dict[str, Any], weights: ScaleWeights, grid: Grid, step: CoarseStep
    ) -> tuple[dict[str, Any], dict[str, nn.Module]]:
        changes = {
            "img_ids": self.coarse_ids(arguments["img_ids"], grid, weights),
            "timestep": self.coarse_timestep(arguments, step),
        }
        return changes, self.stand_ins(step, grid)

    def places(self, batch: int, rows: int, columns: int, like: Tensor) -> dict[str, Any]:
        """As `PackedFamily.places`: the ids, the same for all samples."""
        return {"img_ids": image_ids(rows, columns, self.IDS).to(like.device)}

    def finished(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """As `Family.finished`: the ids of the text, all of them zero as FLUX has them."""
        text = arguments["encoder_hidden_states"]
        return {"txt_ids": torch.zeros(text.shape[1], self.IDS, device=text.device)} | arguments


def version_of(ids: Tensor) -> int:
    """How often ids were written to in place, as far as that is counted."""
    return -1 if ids.is_inference() else ids._version


def flat(ids: Tensor) -> Tensor:
    """Ids [N, columns], also of a call that has them for a batch."""
    return ids[0] if ids.ndim == 3 else ids


def image_ids(rows: int, columns: int, width: int = 3) -> Tensor:
    """Position ids [rows·columns, width] of a picture."""
    ids = torch.zeros(rows, columns, width)
    ids[..., 1] = torch.arange(rows)[:, None]
    ids[..., 2] = torch.arange(columns)
    return ids.view(-1, width)


def read_grid(ids: Tensor, tokens: int, width: int) -> Grid:
    """Grid from ids [N, width] = (0, or else for a reference; row; column; …), the latent's tokens first."""
    own_ids = flat(ids)
    if own_ids.ndim != 2 or own_ids.shape != (tokens, width):
        raise ValueError(
            f"img_ids must have shape ({tokens}, {width}), one row a token, got {tuple(ids.shape)}"
        )
    host = own_ids.detach().cpu()
    own = int((host[:, 0] == 0).sum())
    if own == 0 or bool((host[:own, 0] != 0).any()):
        raise ValueError("img_ids: the latent's tokens (first column 0) must stand before reference tokens")
    first_row = host[:own, 1] == host[0, 1]
    columns = int(first_row.sum())
    rows = own // columns
    y0, x0 = float(host[0, 1]), float(host[0, 2])
    y = (torch.arange(rows, device=host.device) + y0).to(host.dtype).repeat_interleave(columns)
    x = (torch.arange(columns, device=host.device) + x0).to(host.dtype).repeat(rows)
    if rows * columns != own or not torch.equal(host[:own, 1], y) or not torch.equal(host[:own, 2], x):
        raise ValueError(
            f"img_ids must be a full grid in row-major order; the latent's {own} tokens are not a rectangle "
            f"of {columns} columns"
        )
    return Grid(1, rows, columns, tokens - own, (y0, x0))
