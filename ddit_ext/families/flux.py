"""A coarse call of a FluxTransformer2DModel, made from outside.

For one call other modules stand in `x_embedder`, `proj_out` and around the layers that have a low-rank
addition; the arguments get the coarse positions, the timestep of the coarse latent and pooled ControlNet
residuals. The forward of diffusers runs as it is, and returns the full fine shape.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from .. import cells as cell_views
from ..modules.context_parallel import Ranks
from .base import Family, check_here, needed, on_grid
from .grid import Grid, centres, pool_tokens

if TYPE_CHECKING:
    from ..coarse.coarse_step import CoarseStep
    from ..coarse.scale_weights import ScaleWeights

PATCH = 2
"""Latent pixels along a side of one base token: FLUX pipelines pack 2x2."""

RESIDUALS = ("controlnet_block_samples", "controlnet_single_block_samples")


class CoarseEmbedding(nn.Module):
    """Stands in `x_embedder`: tokens of merged cells for the latent, base tokens for the references."""

    def __init__(self, step: CoarseStep, base: nn.Module, grid: Grid, ranks: Ranks | None) -> None:
        super().__init__()
        self.step = step
        self.base = base
        self.own = grid.tokens
        self.references = grid.references
        self.ranks = ranks

    def forward(self, hidden_states: Tensor) -> Tensor:
        tokens = self.step.tokens()
        if self.ranks is not None:  # hidden_states is a rank's part of the base tokens
            return self.ranks.part(tokens, 1)
        if self.references:
            base = self.base(hidden_states[:, self.own :])
            tokens = torch.cat([tokens.to(base.dtype), base], dim=1)
        return tokens


class CoarseProjection(nn.Module):
    """Stands in `proj_out`: tokens of merged cells back to packed base tokens [B, N, C_out*p*p]."""

    def __init__(self, step: CoarseStep, base: nn.Module, grid: Grid, ranks: Ranks | None) -> None:
        super().__init__()
        self.step = step
        self.base = base
        self.references = grid.references
        self.ranks = ranks

    def forward(self, tokens: Tensor) -> Tensor:
        if self.ranks is not None:
            tokens = self.ranks.whole(tokens, 1)
        own = tokens.shape[1] - self.references
        velocity = self.step.velocity(tokens[:, :own])
        packed = velocity.flatten(4).flatten(1, 3).to(tokens.dtype)
        if self.references:
            packed = torch.cat([packed, self.base(tokens[:, own:]).to(packed.dtype)], dim=1)
        return packed


class FluxFamily(Family):
    """What is particular to FLUX. Raises ValueError for channels that are not packed."""

    FAMILY = "FLUX"
    MODELS = (FluxTransformer2DModel,)
    REPLACED = ("x_embedder", "proj_out")
    BLOCKS = ("transformer_blocks", "single_transformer_blocks")
    CHANNELS = -1
    SHARED = frozenset({"", "proj_out"})
    TIMESTEP = 1.0

    patch_size = PATCH

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__(transformer)
        config = transformer.config
        out_features = config.patch_size**2 * transformer.out_channels
        if config.in_channels % PATCH**2 or out_features % PATCH**2:
            raise ValueError(
                f"transformer: in_channels and out_channels must be multiples of {PATCH * PATCH} "
                f"(packed {PATCH}x{PATCH} latent pixels), got {config.in_channels} and {out_features}"
            )
        self.in_channels = config.in_channels // PATCH**2
        self.out_channels = out_features // PATCH**2
        self.features = out_features  # of a packed token of the noisy latent
        self._ids: tuple[weakref.ref[Tensor], int, int, Grid, dict[tuple[int, str], Tensor]] | None = None

    def noisy(self, hidden_states: Tensor) -> Tensor:
        """Packed tokens [B, N, C_out*p*p], references among them."""
        return hidden_states[..., : self.features]

    def tokens(self, arguments: dict[str, Any], scale: int) -> int:
        """Image and reference tokens of a sample; for scale 1 without a look at the ids."""
        if scale == 1:
            return needed(arguments, "hidden_states").shape[1]
        grid = self.grid(arguments)
        return grid.coarse_tokens(scale) + grid.references

    def block_cost(self, arguments: dict[str, Any]) -> tuple[int, float]:
        """Text and image attend to each other in one sequence; a token takes 12·width² in a block's layers."""
        text = arguments.get("encoder_hidden_states")
        return (text.shape[1] if isinstance(text, Tensor) else 0), 6.0 * self.width

    def grid(self, arguments: dict[str, Any]) -> Grid:
        """The grid of the latent's tokens and the number of reference tokens, read from `img_ids` [N, 3].

        Read once per ids tensor. ValueError where the ids are not a full grid in row-major order.
        """
        ids = needed(arguments, "img_ids")
        tokens = needed(arguments, "hidden_states").shape[1]
        version = -1 if ids.is_inference() else ids._version
        if self._ids is not None:
            known, at_version, at_tokens, grid, _ = self._ids
            if known() is ids and at_version == version and at_tokens == tokens:
                return grid
        grid = _read_grid(ids, tokens)
        self._ids = (weakref.ref(ids), version, tokens, grid, {})
        return grid

    def cells(self, arguments: dict[str, Any], grid: Grid) -> Tensor:
        """A view [B, 1, h, w, C_in, p, p] of the latent's own tokens:

        the first out_channels channels are the noisy latent, the others clean conditions.
        """
        own = needed(arguments, "hidden_states")[:, : grid.tokens]
        return cell_views.from_packed(own, grid.rows, grid.columns, PATCH)

    def signal_view(self, arguments: dict[str, Any]) -> Callable[[Tensor], Tensor]:
        """As `Family.signal_view`, for packed tokens [B, N, >= C_out*p*p] or pictures [B, C_out, H, W]."""
        return self._kept_view(_signal_cells, self.grid(arguments), self.features, self.out_channels)

    def first_input(self, arguments: dict[str, Any]) -> Tensor:
        """[B, N, D]: the tokens as the first block's norm modulates them, references among them."""
        transformer = self.transformer
        hidden_states = needed(arguments, "hidden_states")
        check_here(transformer.x_embedder, hidden_states)
        tokens = transformer.x_embedder(hidden_states)
        levels = (arguments.get("timestep"), arguments.get("guidance"))
        told = [1000 * level.to(tokens.dtype) for level in levels if level is not None]
        modulation = transformer.time_text_embed(*told, needed(arguments, "pooled_projections"))
        return transformer.transformer_blocks[0].norm1(tokens, emb=modulation)[0]

    def training_call(self, latents: Tensor, conditions: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a call, without noise yet, from a training batch.

        Args:
            latents: clean latents x0, packed [B, N, C·4] or as an image [B, C, H, W] with even sides.
            conditions: the call's other arguments by name. `img_ids` may be left out for image latents,
                `txt_ids` always. `condition_latents` [B, N, K], for Fill and Control models, is appended to
                the noisy latent.
        """
        arguments = dict(conditions)
        if latents.ndim == 4:
            batch, channels, height, width = latents.shape
            if height % 2 or width % 2:
                raise ValueError(f"latents [B, C, H, W] must have even sides, got {tuple(latents.shape)}")
            packed = latents.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
            arguments.setdefault("img_ids", image_ids(height // 2, width // 2).to(latents.device))
            latents = packed.reshape(batch, (height // 2) * (width // 2), channels * 4)
        elif latents.ndim != 3:
            raise ValueError(
                f"latents must have shape [B, N, C·4] or [B, C, H, W], got {tuple(latents.shape)}"
            )
        if "txt_ids" not in arguments:
            text = arguments["encoder_hidden_states"].shape[1]
            arguments["txt_ids"] = torch.zeros(text, 3, device=latents.device)
        arguments["hidden_states"] = latents
        return arguments

    def check(self, arguments: dict[str, Any], weights: ScaleWeights) -> None:
        """As `Family.check`; attention masks count tokens of the base size."""
        super().check(arguments, weights)
        if "attention_mask" in (arguments.get("joint_attention_kwargs") or {}):
            raise NotImplementedError("joint_attention_kwargs['attention_mask']: not for coarse patches")

    def _rewrite(
        self, arguments: dict[str, Any], weights: ScaleWeights, grid: Grid, step: CoarseStep
    ) -> tuple[dict[str, Any], dict[str, nn.Module]]:
        transformer = self.transformer
        timestep = needed(arguments, "timestep")
        dtype = timestep.dtype if timestep.is_floating_point() else torch.float32
        changes: dict[str, Any] = {
            "img_ids": self._coarse_ids(arguments["img_ids"], grid, weights),
            "timestep": step.timestep.to(dtype),
        }
        for name in RESIDUALS:
            if arguments.get(name) is not None:
                if self.ranks is not None:
                    raise NotImplementedError(
                        f"context parallelism: {name} is not supported with coarse patches"
                    )
                changes[name] = [pool_tokens(sample, grid, weights.scale) for sample in arguments[name]]
        replacements: dict[str, nn.Module] = {
            "x_embedder": CoarseEmbedding(step, transformer.x_embedder, grid, self.ranks),
            "proj_out": CoarseProjection(step, transformer.proj_out, grid, self.ranks),
        }
        return changes, replacements

    def _coarse_ids(self, ids: Tensor, grid: Grid, weights: ScaleWeights) -> Tensor:
        """Float32 ids of the merged cells: bf16, as pipelines have it, is inexact beyond 128 cells."""
        assert self._ids is not None
        known = self._ids[-1]
        key = (weights.scale, weights.positions)
        if key not in known:
            flat = ids[0] if ids.ndim == 3 else ids
            _, rows, columns = grid.coarse(weights.scale)
            y = centres(rows, weights.scale, weights.positions, ids.device) + grid.origin[0]
            x = centres(columns, weights.scale, weights.positions, ids.device) + grid.origin[1]
            zero = torch.zeros((), device=ids.device)
            own = torch.stack(torch.broadcast_tensors(zero, y[:, None], x[None, :]), dim=-1).reshape(-1, 3)
            known[key] = torch.cat([own, flat[grid.tokens :].float()])
        return known[key]


def image_ids(rows: int, columns: int) -> Tensor:
    """FLUX's position ids [rows·columns, 3] of a picture."""
    ids = torch.zeros(rows, columns, 3)
    ids[..., 1] = torch.arange(rows)[:, None]
    ids[..., 2] = torch.arange(columns)
    return ids.view(-1, 3)


def _signal_cells(grid: Grid, features: int, channels: int, latents: Tensor) -> Tensor:
    if latents.ndim == 3 and latents.shape[1] >= grid.tokens:
        own = latents[:, : grid.tokens, :features]
        return on_grid(cell_views.from_packed(own, grid.rows, grid.columns, PATCH), grid, channels)
    if latents.ndim != 4:
        raise ValueError(
            f"latents of shape {tuple(latents.shape)} don't lie on a grid of {grid.tokens} tokens"
        )
    return on_grid(cell_views.from_latents(latents, PATCH), grid, channels)


def _read_grid(ids: Tensor, tokens: int) -> Grid:
    """Grid from FLUX's ids [N, 3] = (0, or 1 for a reference; row; column), the latent's tokens first."""
    flat = ids[0] if ids.ndim == 3 else ids
    if flat.ndim != 2 or flat.shape != (tokens, 3):
        raise ValueError(f"img_ids must have shape ({tokens}, 3), one row a token, got {tuple(ids.shape)}")
    host = flat.detach().cpu()
    own = int((host[:, 0] == 0).sum())
    if own == 0 or bool((host[:own, 0] != 0).any()):
        raise ValueError("img_ids: the latent's tokens (first column 0) must stand before reference tokens")
    first_row = host[:own, 1] == host[0, 1]
    columns = int(first_row.sum())
    rows = own // columns
    y0, x0 = float(host[0, 1]), float(host[0, 2])
    y = (torch.arange(rows) + y0).to(host.dtype).repeat_interleave(columns)
    x = (torch.arange(columns) + x0).to(host.dtype).repeat(rows)
    if rows * columns != own or not torch.equal(host[:own, 1], y) or not torch.equal(host[:own, 2], x):
        raise ValueError(
            f"img_ids must be a full grid in row-major order; the latent's {own} tokens are not a rectangle "
            f"of {columns} columns"
        )
    return Grid(1, rows, columns, tokens - own, (y0, x0))
