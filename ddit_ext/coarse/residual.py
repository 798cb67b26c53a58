"""The path from before the patch embedding to after the de-embedding.

A coarse token can't carry the detail inside its patch: neither the noise there, which the velocity must
contain in full, nor the little that can be known of the clean detail. The residual adds, straight from the
noisy latent z,

    β(σ)·up(low) + g(σ)·(z - up(low)),        low = s×s means of z

(`noise_match.py` has the scalars), and, in a trained adapter, a refinement that starts as an exact no-op.
The paper has "one residual block" of undisclosed form here; the analytic part and the refinement are this project's.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from .scale_spec import ScaleSpec

LEVEL_FEATURES = 8


def split_bands(cells: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    """The s×s means [B, F, C, H/s, 1, W/s, 1] of cells [B, F, h, w, C, p, p], and what is above them,

    [B, F, C, H/s, s, W/s, s], in float32.
    H and W are h·p and w·p rounded up to multiples of ``scale`` by repeating the last row and column, as the
    embedding reads a ragged edge.
    """
    batch, frames, rows, columns, channels, patch, _ = cells.shape
    height, width = rows * patch, columns * patch
    pixels = cells.permute(0, 1, 4, 2, 5, 3, 6)
    # `to` looks at the memory format only where the dtype changes.
    pixels = pixels.to(torch.float32, memory_format=torch.contiguous_format).contiguous()
    pixels = pixels.view(batch * frames, channels, height, width)
    below, right = -height % scale, -width % scale
    if below or right:
        pixels = F.pad(pixels, (0, right, 0, below), mode="replicate")
    low = F.avg_pool2d(pixels, scale).view(batch, frames, channels, -1, 1, pixels.shape[-1] // scale, 1)
    blocks = pixels.view(*low.shape[:4], scale, low.shape[5], scale)
    return low, blocks - low


def join_bands(low: Tensor, detail: Tensor, gain: Tensor, low_gain: Tensor, like: Tensor) -> Tensor:
    """low_gain·up(low) + gain·detail as a view of cells shaped like ``like``; the gains are [B], or [1] for all samples.

    The bands come from :func:`split_bands`.
    """
    gain, low_gain = (each.view(-1, 1, 1, 1, 1, 1, 1) for each in (gain, low_gain))
    joined = torch.addcmul(low * low_gain, detail, gain).flatten(5).flatten(3, 4)
    rows, columns, patch = like.shape[2], like.shape[3], like.shape[5]
    joined = joined[..., : rows * patch, : columns * patch]
    cells = joined.unflatten(4, (columns, patch)).unflatten(3, (rows, patch))
    return cells.permute(0, 1, 3, 5, 2, 4, 6)


class Refinement(nn.Module):
    """What training may change about the residual; exactly nothing at the start.

    ``knots`` [3, K] are corrections to α, β and g, piecewise linear in σ between K equidistant knots on [0,
    1]. A two-layer perceptron reads the noisy patch (all input channels), the noise level and, with
    ``refinement_tokens``, the token that leaves the blocks, which knows what the detail belongs to. It adds to the velocity
    of the patch; its last layer starts at zero. Its layers on patches are patch products, so a ragged edge needs
    no special case.
    """

    def __init__(self, spec: ScaleSpec):
        super().__init__()
        side, hidden = spec.patch_size * spec.scale, spec.refinement_hidden
        self.scale = spec.scale
        self.knots = nn.Parameter(torch.zeros(3, spec.refinement_knots))
        self.input_weight = nn.Parameter(torch.empty(hidden, spec.in_channels, side, side))
        self.input_bias = nn.Parameter(torch.zeros(hidden))
        self.level_weight = nn.Parameter(torch.zeros(hidden, LEVEL_FEATURES))
        self.token_weight = None
        if spec.refinement_tokens:
            self.token_weight = nn.Parameter(torch.zeros(hidden, spec.width))
        self.output_weight = nn.Parameter(torch.zeros(spec.out_channels, side, side, hidden))
        self.output_bias = nn.Parameter(torch.zeros(spec.out_channels, side, side))

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """A random first layer of unit gain and a last layer of zeros."""
        with torch.no_grad():
            bound = math.sqrt(3 / self.input_weight[0].numel())
            self.input_weight.uniform_(-bound, bound, generator=generator)
            self.level_weight.uniform_(-0.5, 0.5, generator=generator)
            if self.token_weight is not None:
                self.token_weight.zero_()
            for parameter in (self.knots, self.input_bias, self.output_weight, self.output_bias):
                parameter.zero_()

    def corrections(self, sigma: Tensor) -> Tensor:
        """Corrections to (α, β, g) at ``sigma`` [B]: [3, B] float32."""
        knots = self.knots.float()
        position = sigma.float().clamp(0, 1) * (knots.shape[1] - 1)
        left = position.long().clamp(max=knots.shape[1] - 2)
        return torch.lerp(knots[:, left], knots[:, left + 1], position - left)

    def bias(self, sigma: Tensor) -> Tensor:
        """What the first layer adds at ``sigma`` [B]: [B, hidden] float32."""
        frequencies = torch.arange(LEVEL_FEATURES, device=sigma.device, dtype=torch.float32) * math.pi
        features = torch.cos(sigma.float()[:, None] * frequencies)
        return torch.addmm(self.input_bias.float(), features, self.level_weight.float().T)

    def forward(self, cells: Tensor, bias: Tensor, tokens: Tensor) -> Tensor:
        """Addition to the velocity [B, F, h, w, C_out, p, p], computed in the dtype of ``tokens``.

        Args:
            cells: [B, F, h, w, C_in, p, p].
            bias: [B, hidden] of the samples' noise levels, or [1, hidden] for all; in the dtype of ``tokens``.
            tokens: [B, N_s, D], what goes into the de-embedding; looked at only where ``token_weight`` is there.
        """
        dtype = tokens.dtype
        grid = list(cells.shape[1:4])
        shared = bias[0] if len(bias) == 1 else None
        hidden = ops.patch_embed(
            cells.to(dtype), self.input_weight.to(dtype), shared, None, None, 1.0, self.scale
        )
        if shared is None:
            hidden = hidden + bias[:, None]
        if self.token_weight is not None:
            weight = self.token_weight.to(dtype).T
            hidden = torch.addmm(hidden.flatten(0, 1), tokens.flatten(0, 1), weight).view(hidden.shape)
        return ops.patch_deembed(
            F.silu(hidden),
            self.output_weight.to(dtype),
            self.output_bias.to(dtype),
            None,
            None,
            1.0,
            self.scale,
            grid,
        )
