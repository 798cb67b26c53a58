"""A coarse call of a FluxTransformer2DModel, made from outside.

For one call other modules stand in `x_embedder`, `proj_out` and around the layers that have a low-rank
addition; the arguments get the coarse positions, the timestep of the coarse latent and pooled ControlNet
residuals. The forward of diffusers runs as it is, and returns the full fine shape.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from .. import cells as cell_views
from .grid import Grid, centres, pool_tokens
from .swap import swapped

if TYPE_CHECKING:
    from ..multiscale.scale_weights import CoarseStep, ScaleWeights

PATCH = 2
"""Latent pixels along a side of one base token: FLUX pipelines pack 2x2."""

RESIDUALS = ("controlnet_block_samples", "controlnet_single_block_samples")


class CoarseEmbedding(nn.Module):
    """Stands in `x_embedder`: tokens of merged cells for the latent, base tokens for the references."""

    def __init__(self, step: CoarseStep, base: nn.Module, grid: Grid) -> None:
        super().__init__()
        self.step = step
        self.base = base
        self.own = grid.tokens
        self.references = grid.references

    def forward(self, hidden_states: Tensor) -> Tensor:
        tokens = self.step.tokens()
        if self.references:
            base = self.base(hidden_states[:, self.own :])
            tokens = torch.cat([tokens.to(base.dtype), base], dim=1)
        return tokens


class CoarseProjection(nn.Module):
    """Stands in `proj_out`: tokens of merged cells back to packed base tokens [B, N, C_out*p*p]."""

    def __init__(self, step: CoarseStep, base: nn.Module, grid: Grid) -> None:
        super().__init__()
        self.step = step
        self.base = base
        self.references = grid.references

    def forward(self, tokens: Tensor) -> Tensor:
        own = tokens.shape[1] - self.references
        velocity = self.step.velocity(tokens[:, :own])
        packed = velocity.flatten(4).flatten(1, 3).to(tokens.dtype)
        if self.references:
            packed = torch.cat([packed, self.base(tokens[:, own:]).to(packed.dtype)], dim=1)
        return packed


class FluxSteering:
    """What is particular to FLUX: where latent, grid and noise level are, and what a coarse call swaps.

    It keeps a weak reference to the transformer, so that a hook on the transformer may own a steering.
    Raises TypeError for anything but a FluxTransformer2DModel, ValueError for channels that are not packed.
    """

    PARAMETERS = tuple(inspect.signature(FluxTransformer2DModel.forward).parameters)[1:]

    def __init__(self, transformer: nn.Module) -> None:
        if not isinstance(transformer, FluxTransformer2DModel):
            raise TypeError(f"transformer must be a FluxTransformer2DModel, got {type(transformer).__name__}")
        config = transformer.config
        out_features = config.patch_size**2 * transformer.out_channels
        if config.in_channels % PATCH**2 or out_features % PATCH**2:
            raise ValueError(
                f"transformer: in_channels and out_channels must be multiples of {PATCH * PATCH} "
                f"(packed {PATCH}x{PATCH} latent pixels), got {config.in_channels} and {out_features}"
            )
        self._transformer = weakref.ref(transformer)
        self.patch_size = PATCH
        self.in_channels = config.in_channels // PATCH**2
        self.out_channels = out_features // PATCH**2
        self.features = out_features  # of a packed token of the noisy latent
        self._merged = {name: _adapter_state(transformer, name) for name in ("x_embedder", "proj_out")}
        self._ids: tuple[weakref.ref[Tensor], int, int, Grid, dict[tuple[int, str], Tensor]] | None = None
        self._lora: weakref.WeakKeyDictionary[nn.Module, dict[str, tuple]] = weakref.WeakKeyDictionary()

    @property
    def transformer(self) -> FluxTransformer2DModel:
        """The transformer this belongs to."""
        transformer = self._transformer()
        if transformer is None:
            raise RuntimeError("the transformer that this FluxSteering was made for is gone")
        return transformer

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name, however they were passed; TypeError as Python itself raises it."""
        if not args:
            return dict(kwargs)
        if len(args) > len(self.PARAMETERS):
            raise TypeError(f"transformer takes at most {len(self.PARAMETERS)} arguments, got {len(args)}")
        named = dict(zip(self.PARAMETERS, args, strict=False))
        twice = named.keys() & kwargs.keys()
        if twice:
            raise TypeError(f"transformer got multiple values for argument {sorted(twice)[0]!r}")
        return named | kwargs

    def noise_level(self, arguments: dict[str, Any]) -> Tensor:
        """[B] float32: the noise level that the call states, rounded in bf16: a sampler knows better."""
        timestep = _needed(arguments, "timestep")
        return timestep.detach().float().reshape(-1).expand(_needed(arguments, "hidden_states").shape[0])

    def grid(self, arguments: dict[str, Any]) -> Grid:
        """The grid of the latent's tokens and the number of reference tokens, read from `img_ids` [N, 3].

        Read once per ids tensor. ValueError where the ids are not a full grid in row-major order.
        """
        ids = _needed(arguments, "img_ids")
        tokens = _needed(arguments, "hidden_states").shape[1]
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
        own = _needed(arguments, "hidden_states")[:, : grid.tokens]
        return cell_views.from_packed(own, grid.rows, grid.columns, PATCH)

    def signal_cells(self, latents: Tensor, grid: Grid) -> Tensor:
        """Cells [B, 1, h, w, C_out, p, p] of a latent as a sampler (or a transformer call) has it.

        latents: packed tokens [B, N, >= C_out*p*p] or pictures [B, C_out, H, W]; else ValueError.
        """
        if latents.ndim == 3 and latents.shape[1] >= grid.tokens:
            own = latents[:, : grid.tokens, : self.features]
            view = cell_views.from_packed(own, grid.rows, grid.columns, PATCH)
        elif latents.ndim == 4:
            view = cell_views.from_latents(latents, PATCH)
        else:
            raise ValueError(
                f"latents of shape {tuple(latents.shape)} don't lie on a grid of {grid.tokens} tokens"
            )
        expected = (grid.frames, grid.rows, grid.columns, self.out_channels)
        if tuple(view.shape[1:5]) != expected:
            raise ValueError(f"cells of the latents must be [B, {expected}, p, p], got {tuple(view.shape)}")
        return view

    def check(self, arguments: dict[str, Any], weights: ScaleWeights) -> None:
        """Raise NotImplementedError, by name, for what a coarse call would silently get wrong."""
        transformer = self.transformer
        if getattr(transformer, "_parallel_config", None) is not None:
            raise NotImplementedError("context or tensor parallel: coarse patches are not supported with it")
        if getattr(transformer, "is_cache_enabled", False):
            raise NotImplementedError(
                f"{type(transformer._cache_config).__name__}: a cache holds tokens of one patch size; "
                "call transformer.disable_cache() to use coarse patches"
            )
        for name, before in self._merged.items():
            now = _adapter_state(transformer, name)
            if now == "active" or now != before:
                raise NotImplementedError(
                    f"a PEFT adapter ({_adapter_names(transformer, name)}) on {name}, which coarse patches "
                    "replace: fuse it before patching, or leave it off this layer"
                )
        if "attention_mask" in (arguments.get("joint_attention_kwargs") or {}):
            raise NotImplementedError("joint_attention_kwargs['attention_mask']: not for coarse patches")
        if weights.patch_size != PATCH:
            raise ValueError(f"weights: made for patch size {weights.patch_size}, FLUX has {PATCH}")

    @contextmanager
    def coarse(
        self, arguments: dict[str, Any], weights: ScaleWeights, sigma: Tensor
    ) -> Iterator[dict[str, Any]]:
        """Inside, `transformer(**yielded)` is a coarse call at `weights.scale` with a fine-shaped output.

        arguments: of the call, by name (see `bind`); sigma [B] float32, the noise level in [0, 1].
        The modules stay swapped until the context ends: keep a backward with gradient checkpointing in it.
        """
        self.check(arguments, weights)
        transformer = self.transformer
        grid = self.grid(arguments)
        step = weights.prepare(self.cells(arguments, grid), sigma)
        timestep = _needed(arguments, "timestep")
        rewritten = dict(arguments)
        rewritten["img_ids"] = self._coarse_ids(arguments["img_ids"], grid, weights)
        dtype = timestep.dtype if timestep.is_floating_point() else torch.float32
        rewritten["timestep"] = step.timestep.to(dtype)
        for name in RESIDUALS:
            if arguments.get(name) is not None:
                rewritten[name] = [pool_tokens(sample, grid, weights.scale) for sample in arguments[name]]
        replacements: dict[str, nn.Module] = {
            "x_embedder": CoarseEmbedding(step, transformer.x_embedder, grid),
            "proj_out": CoarseProjection(step, transformer.proj_out, grid),
        }
        replacements |= self._low_rank(weights)
        with swapped(transformer, replacements):
            yield rewritten

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

    def _low_rank(self, weights: ScaleWeights) -> dict[str, nn.Module]:
        """The module at each low-rank target, whatever stands there, with the addition around it.

        The wrappers are kept from call to call: a compiled model then meets the same objects again.
        """
        if not weights.lora:
            return {}
        from ..multiscale.lora import LowRankLinear

        transformer = self.transformer
        kept = self._lora.setdefault(weights, {})
        for name, low_rank in weights.lora.items():
            module = transformer.get_submodule(name)
            if name not in kept or kept[name][0] is not module or kept[name][1] is not low_rank:
                kept[name] = (module, low_rank, LowRankLinear(module, low_rank))
        return {name: kept[name][2] for name in weights.lora}


def _needed(arguments: dict[str, Any], name: str) -> Tensor:
    value = arguments.get(name)
    if not isinstance(value, Tensor):
        raise TypeError(f"transformer: {name} must be a tensor, got {type(value).__name__}")
    return value


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


def _adapter_state(transformer: nn.Module, name: str) -> str:
    """What PEFT does to the module at `name`: "none", "active" or "merged"."""
    module = transformer.get_submodule(name)
    if not hasattr(module, "base_layer"):
        return "none"
    if getattr(module, "merged", False):
        return "merged"
    off = getattr(module, "disable_adapters", False) or not getattr(module, "active_adapters", True)
    return "none" if off else "active"


def _adapter_names(transformer: nn.Module, name: str) -> str:
    return ", ".join(getattr(transformer.get_submodule(name), "active_adapters", None) or ["unnamed"])
