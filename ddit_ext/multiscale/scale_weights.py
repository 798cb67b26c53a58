"""Everything that one patch size s > 1 owns, and one coarse step with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .. import ops
from .base_weights import AdapterError, BaseWeights
from .lora import LowRank
from .noise_match import (
    NoiseMatch,
    default_detail,
    detail_gain,
    estimate_detail,
    high_band_energy,
    noise_match,
    unmatched,
)
from .residual import Refinement, join_bands, split_bands
from .resize import pi_resize, pooled, repeated_rows

Start = Literal["noise_matched", "pi_resize"]
Positions = Literal["centre", "grid"]


@dataclass(frozen=True)
class ScaleSpec:
    """The shape and the fixed choices of one patch size; what a file must say to build it again."""

    scale: int  # s: how many base patches a side are merged
    patch_size: int  # p: side of a base patch in latent pixels
    width: int  # D: features of a token
    in_channels: int  # C_in: noisy latent and clean conditions
    out_channels: int  # C_out: the noisy latent alone
    start: Start = "noise_matched"
    positions: Positions = "centre"
    detail_residual: bool = True  # False: no g(σ)·(z - up(low))
    detail_variance: float | None = None  # H; None: estimated from each latent
    rank: int = 0  # of the feed-forward LoRA; 0: none
    lora_scale: float = 1.0
    refinement_hidden: int = 0  # 0: the residual is the analytic one
    refinement_knots: int = 16

    def __post_init__(self):
        for name in ("scale", "patch_size", "width", "in_channels", "out_channels"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1 + (name == "scale"):
                raise AdapterError(
                    f"{name} must be a positive integer (scale at least 2), got {getattr(self, name)!r}"
                )
        for name, least in (("rank", 0), ("refinement_hidden", 0), ("refinement_knots", 2)):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise AdapterError(
                    f"{name} must be an integer of at least {least}, got {getattr(self, name)!r}"
                )
        if not _is_finite(self.lora_scale):
            raise AdapterError(f"lora_scale must be a finite number, got {self.lora_scale!r}")
        if self.detail_variance is not None and not (
            _is_finite(self.detail_variance) and self.detail_variance >= 0
        ):
            raise AdapterError(
                f"detail_variance must be None or a number that is not negative, got {self.detail_variance!r}"
            )
        if not isinstance(self.detail_residual, bool):
            raise AdapterError(f"detail_residual must be True or False, got {self.detail_residual!r}")
        if self.start not in ("noise_matched", "pi_resize"):
            raise AdapterError(f'start must be "noise_matched" or "pi_resize", got {self.start!r}')
        if self.positions not in ("centre", "grid"):
            raise AdapterError(f'positions must be "centre" or "grid", got {self.positions!r}')
        if self.in_channels < self.out_channels:
            raise AdapterError(
                f"in_channels must be at least out_channels, got {self.in_channels}, {self.out_channels}"
            )


class ScaleWeights(nn.Module):
    """One patch size: embedding, de-embedding, patch-size vector, residual and LoRA.

    Attributes:
        spec: the fixed choices.
        embed_weight [D, C_in, s·p, s·p], embed_bias [D]: the patch embedding.
        size_embedding [D]: added to every image token (the paper's patch-size id); zero at the start.
        deembed_weight [C_out, s·p, s·p, D], deembed_bias [C_out, s·p, s·p]: the de-embedding.
        refinement: the trainable part of the residual, or None.
        lora: dotted module name inside the transformer -> :class:`LowRank`.
    """

    def __init__(self, spec: ScaleSpec, lora_layers: Mapping[str, tuple[int, int]] | None = None):
        super().__init__()
        self.spec = spec
        side = spec.patch_size * spec.scale
        self.embed_weight = nn.Parameter(torch.zeros(spec.width, spec.in_channels, side, side))
        self.embed_bias = nn.Parameter(torch.zeros(spec.width))
        self.size_embedding = nn.Parameter(torch.zeros(spec.width))
        self.deembed_weight = nn.Parameter(torch.zeros(spec.out_channels, side, side, spec.width))
        self.deembed_bias = nn.Parameter(torch.zeros(spec.out_channels, side, side))
        self.refinement = None
        if spec.refinement_hidden:
            self.refinement = Refinement(
                spec.in_channels,
                spec.out_channels,
                spec.patch_size,
                spec.scale,
                spec.refinement_hidden,
                spec.refinement_knots,
            )
        # A ModuleDict takes no dots in its keys.
        self.lora_modules = nn.ModuleDict()
        if spec.rank:
            for name, (fan_in, fan_out) in (lora_layers or {}).items():
                self.lora_modules[name.replace(".", "/")] = LowRank(
                    fan_in, fan_out, spec.rank, spec.lora_scale
                )

    @property
    def scale(self) -> int:
        return self.spec.scale

    @property
    def patch_size(self) -> int:
        """p, the side of a base patch in latent pixels."""
        return self.spec.patch_size

    @property
    def positions(self) -> Positions:
        """Where a coarse token stands: at the "centre" of its cells (s·i + (s-1)/2), or on a "grid" 0, 1, 2,
        …
        """
        return self.spec.positions

    @property
    def lora(self) -> dict[str, LowRank]:
        return {key.replace("/", "."): module for key, module in self.lora_modules.items()}

    def initialise(self, base: BaseWeights, generator: torch.Generator | None = None) -> None:
        """Set the start: made from the base's own weights, every addition to them a no-op."""
        resize = pooled if self.spec.start == "noise_matched" else pi_resize
        with torch.no_grad():
            self.embed_weight.copy_(resize(base.embed_weight, self.scale))
            self.embed_bias.copy_(base.embed_bias)
            self.size_embedding.zero_()
            self.deembed_weight.copy_(repeated_rows(base.deembed_weight, self.scale))
            self.deembed_bias.copy_(repeated_rows(base.deembed_bias, self.scale))
        if self.refinement is not None:
            self.refinement.reset_parameters(generator)
        for low_rank in self.lora_modules.values():
            low_rank.reset_parameters(generator)

    def prepare(self, cells: Tensor, sigma: Tensor) -> CoarseStep:
        """Begin a coarse step.

        Args:
            cells: [B, F, h, w, C_in, p, p], any strides; the first C_out channels are the noisy latent, the
                others clean conditions, which no noise matching applies to.
            sigma: noise levels [B] in [0, 1], float32. A single number for the whole batch may be [1]; [B, F]
                where the frames of a video are at levels of their own.

        Raises:
            ValueError: shapes that don't fit; the text names the argument.
        """
        spec = self.spec
        patch = (spec.in_channels, spec.patch_size, spec.patch_size)
        if cells.ndim != 7 or tuple(cells.shape[4:]) != patch:
            raise ValueError(
                f"cells must have shape [B, F, h, w, {', '.join(map(str, patch))}], got {tuple(cells.shape)}"
            )
        batch, frames = cells.shape[:2]
        by_frame = sigma.ndim == 2 and tuple(sigma.shape) == (batch, frames)
        if not by_frame and (sigma.ndim != 1 or sigma.shape[0] not in (1, batch)):
            raise ValueError(
                f"sigma must have shape [{batch}], got {tuple(sigma.shape)} (or [{batch}, {frames}]: one a frame)"
            )
        if by_frame:  # a step on B*F samples of one frame each
            sigma, cells = sigma.flatten(), cells.flatten(0, 1).unsqueeze(1)
        sigma = sigma.to(cells.device, torch.float32).expand(cells.shape[0])
        matched = noise_match(sigma, self.scale) if spec.start == "noise_matched" else unmatched(sigma)
        return CoarseStep(self, cells, sigma, matched, frames if by_frame else None)

    def detail(self, sigma: Tensor, pixels: Tensor, low: Tensor) -> Tensor | float:
        """H: the adapter's number, or each sample's estimate [B] from its noisy bands."""
        if self.spec.detail_variance is not None:
            return self.spec.detail_variance
        with torch.no_grad():
            energy = high_band_energy(pixels, low, self.scale)
            count = pixels[0].numel() - low[0].numel()
            return estimate_detail(energy, sigma, count, default_detail(self.scale))

    def extra_repr(self) -> str:
        return f"scale={self.scale}, start={self.spec.start!r}, rank={self.spec.rank}"


class CoarseStep:
    """One coarse call in progress: made by :meth:`ScaleWeights.prepare`, used once.

    ``timestep`` [B] float32 is the noise level that the blocks are told; [B, F] where each frame has its own.
    """

    def __init__(
        self,
        weights: ScaleWeights,
        cells: Tensor,
        sigma: Tensor,
        matched: NoiseMatch,
        frames: int | None = None,
    ):
        self._weights = weights
        self._frames = frames  # by which samples of one frame are put together; None: they are whole
        self._cells = cells
        self._sigma = sigma
        self._matched = matched
        self._dtype = _compute_dtype(cells)
        self.timestep = matched.timestep if frames is None else matched.timestep.unflatten(0, (-1, frames))

    def tokens(self) -> Tensor:
        """The image tokens [B, N_s, D] of the coarse patches, in the model's (or autocast's) dtype."""
        weights, dtype = self._weights, self._dtype
        tokens = ops.patch_embed(
            self._matched_cells().to(dtype),
            weights.embed_weight.to(dtype),
            (weights.embed_bias + weights.size_embedding).to(dtype),
            None,
            None,
            1.0,
            weights.scale,
        )
        return tokens if self._frames is None else tokens.unflatten(0, (-1, self._frames)).flatten(1, 2)

    def velocity(self, tokens: Tensor) -> Tensor:
        """The velocity as cells [B, F, h, w, C_out, p, p] in the latents' dtype.

        Args:
            tokens: [B, N_s, D], what would have gone into the output projection.
        """
        weights, cells, sigma = self._weights, self._cells, self._sigma
        grid = list(cells.shape[1:4])
        if self._frames is not None:
            tokens = tokens.unflatten(1, (self._frames, -1)).flatten(0, 1)
        coarse = ops.patch_deembed(
            tokens.to(self._dtype),
            weights.deembed_weight.to(self._dtype),
            weights.deembed_bias.to(self._dtype),
            None,
            None,
            1.0,
            weights.scale,
            grid,
        )
        alpha, beta = self._matched.alpha, self._matched.beta
        noisy = cells[:, :, :, :, : weights.spec.out_channels].float()
        pixels, low = split_bands(noisy, weights.scale)
        if weights.spec.detail_residual:
            gain = detail_gain(sigma, weights.detail(sigma, pixels, low))
        else:
            gain = torch.zeros_like(sigma)
        refinement = weights.refinement
        if refinement is not None:
            more_alpha, more_beta, more_gain = refinement.corrections(sigma)
            alpha, beta, gain = alpha + more_alpha, beta + more_beta, gain + more_gain
        # The product comes first and is a new contiguous tensor: the sum lands in it, ready to be read as
        # packed.
        velocity = coarse * alpha.view(-1, 1, 1, 1, 1, 1, 1)
        velocity += join_bands(pixels, low, gain, beta, coarse)
        if refinement is not None:
            velocity += refinement(cells, sigma, self._dtype)
        velocity = velocity.to(cells.dtype)
        return velocity if self._frames is None else velocity.squeeze(1).unflatten(0, (-1, self._frames))

    def _matched_cells(self) -> Tensor:
        """The cells with c on the noisy channels, computed in float32."""
        spec = self._weights.spec
        if spec.start != "noise_matched":
            return self._cells
        factor = self._matched.input_scale.view(-1, 1, 1, 1, 1, 1, 1)
        if spec.in_channels > spec.out_channels:
            noisy = torch.arange(spec.in_channels, device=factor.device) < spec.out_channels
            factor = torch.where(noisy.view(-1, 1, 1), factor, 1.0)
        return self._cells * factor


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _compute_dtype(cells: Tensor) -> torch.dtype:
    device = cells.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return cells.dtype


def spec_from_json(entry: Any) -> ScaleSpec:
    """A :class:`ScaleSpec` from the adapter file's entry; AdapterError names what is missing or unknown."""
    if not isinstance(entry, dict):
        raise AdapterError(f"a scale's entry must be an object, got {type(entry).__name__}")
    known = ScaleSpec.__dataclass_fields__
    unknown = sorted(set(entry) - set(known))
    missing = sorted({"scale", "patch_size", "width", "in_channels", "out_channels"} - set(entry))
    if unknown or missing:
        raise AdapterError(f"a scale's entry has unknown fields {unknown} and lacks {missing}")
    return ScaleSpec(**entry)
