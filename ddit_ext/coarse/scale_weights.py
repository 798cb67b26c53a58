"""Everything that one patch size s > 1 owns."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..modules.lora import LowRank
from .base_weights import BaseWeights
from .coarse_step import CoarseStep, compute_dtype
from .levels import Levels, RunLevel
from .noise_match import default_detail, detail_gain, detail_line, gain_lines, matched_by
from .residual import Refinement
from .resize import pi_resize, pooled, repeated_rows
from .scale_spec import ScaleSpec


class ScaleWeights(nn.Module):
    """One patch size: embedding, de-embedding, patch-size vector, residual and LoRA.

    Attributes:
        spec: the fixed choices; scale, patch_size, positions: some of them.
        embed_weight [D, C_in, s·p, s·p], embed_bias [D]: the patch embedding.
        size_embedding [D]: added to every image token (the paper's patch-size id); zero at the start.
        deembed_weight [C_out, s·p, s·p, D], deembed_bias [C_out, s·p, s·p]: the de-embedding.
        refinement: the trainable part of the residual, or None.
        lora: dotted module name inside the transformer -> :class:`LowRank`.
    """

    def __init__(self, spec: ScaleSpec, lora_layers: Mapping[str, tuple[int, int]]):
        super().__init__()
        self.spec = spec
        self.scale, self.patch_size, self.positions = spec.scale, spec.patch_size, spec.positions
        side = spec.patch_size * spec.scale
        self.embed_weight = nn.Parameter(torch.zeros(spec.width, spec.in_channels, side, side))
        self.embed_bias = nn.Parameter(torch.zeros(spec.width))
        self.size_embedding = nn.Parameter(torch.zeros(spec.width))
        self.deembed_weight = nn.Parameter(torch.zeros(spec.out_channels, side, side, spec.width))
        self.deembed_bias = nn.Parameter(torch.zeros(spec.out_channels, side, side))
        self.refinement = Refinement(spec) if spec.refinement_hidden else None
        # A ModuleDict takes no dots in its keys.
        self.lora_modules = nn.ModuleDict()
        if spec.rank:
            for name, features in lora_layers.items():
                self.lora_modules[name.replace(".", "/")] = LowRank(*features, spec.rank, spec.lora_scale)

    @property
    def lora(self) -> dict[str, LowRank]:
        return {key.replace("/", "."): module for key, module in self.lora_modules.items()}

    def initialise(self, base: BaseWeights, generator: torch.Generator | None = None) -> None:
        """Set the start: made from the base's own weights, every addition to them a no-op."""
        resize = pi_resize if self.spec.start == "pi_resize" else pooled
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

    def prepare(self, cells: Tensor, sigma: Tensor | RunLevel) -> CoarseStep:
        """Begin a coarse step.

        Args:
            cells: [B, F, h, w, C_in, p, p], any strides; the first C_out channels are the noisy latent, the
                others clean conditions, which no noise matching applies to.
            sigma: noise levels [B] in [0, 1], float32. A single number for the whole batch may be [1]; [B, F]
                where the frames of a video are at levels of their own. Or the step of a run.

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
        by_frame = not isinstance(sigma, RunLevel) and tuple(sigma.shape) == (batch, frames)
        if by_frame:  # a step on B*F samples of one frame each
            sigma, cells = sigma.flatten(), cells.flatten(0, 1).unsqueeze(1)
        elif not isinstance(sigma, RunLevel) and tuple(sigma.shape) not in ((1,), (batch,)):
            raise ValueError(
                f"sigma must have shape [{batch}], got {tuple(sigma.shape)} (or [{batch}, {frames}]: one a frame)"
            )
        dtype, coefficients = compute_dtype(cells), self._coefficients(cells.shape)
        if isinstance(sigma, RunLevel):
            levels = sigma.run.row(sigma.index, self, coefficients, cells.device, dtype)
        else:
            levels = self.levels(sigma.to(cells.device, torch.float32), coefficients, dtype)
        return CoarseStep(self, cells, levels, dtype, frames if by_frame else None)

    def levels(self, sigma: Tensor, coefficients: int, dtype: torch.dtype) -> Levels:
        """What steps at noise levels ``sigma`` [n], float32, take from them.

        Args:
            coefficients: of a sample's high band, see :func:`detail_line`.
            dtype: in which tokens are computed.
        """
        spec, refinement = self.spec, self.refinement
        matched = matched_by(spec.start, sigma, self.scale)
        alpha, beta, more_gain = matched.alpha, matched.beta, None
        if refinement is not None:
            more_alpha, more_beta, more_gain = refinement.corrections(sigma)
            alpha, beta = alpha + more_alpha, beta + more_beta
        gain = start = slope = None
        line: tuple[Tensor | None, Tensor | None] = (None, None)
        if not spec.detail_residual:
            gain = torch.zeros_like(sigma)
        elif spec.detail_variance is not None:
            gain = detail_gain(sigma, spec.detail_variance)
        else:
            start, slope = gain_lines(sigma)
            line = detail_line(sigma, coefficients, default_detail(self.scale))
        if more_gain is not None:
            if gain is not None:
                gain = gain + more_gain
            else:  # g + more = (numerator + more·denominator) / denominator
                start, slope = (
                    torch.stack([each[:, 0] + more_gain * each[:, 1], each[:, 1]], 1)
                    for each in (start, slope)
                )
        bias = (self.embed_bias + self.size_embedding).to(dtype).expand(len(sigma), -1)
        hidden = None if refinement is None else refinement.bias(sigma).to(dtype)
        factor = None if spec.start == "pi_resize" else matched.input_scale[:, None]
        if factor is not None and spec.in_channels > spec.out_channels:
            noisy = torch.arange(spec.in_channels, device=sigma.device) < spec.out_channels
            factor = torch.where(noisy, factor, 1.0)
        return Levels(factor, matched.timestep, alpha, beta, gain, start, slope, *line, bias, hidden)

    def _coefficients(self, cells: torch.Size) -> int:
        """Numbers of a sample's noisy latent that are no means; ragged edges are filled up."""
        height, width = (-(-count * self.patch_size // self.scale) * self.scale for count in cells[2:4])
        pixels = cells[1] * self.spec.out_channels * height * width
        return pixels - pixels // self.scale**2

    def extra_repr(self) -> str:
        return f"scale={self.scale}, start={self.spec.start!r}, rank={self.spec.rank}"
