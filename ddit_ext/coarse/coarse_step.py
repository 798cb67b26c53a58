"""One coarse call of a transformer: what goes into its blocks, and the velocity from what comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import ops
from .noise_match import NoiseMatch, detail_gain
from .residual import join_bands, split_bands

if TYPE_CHECKING:
    from .scale_weights import ScaleWeights


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
        tokens = tokens.to(self._dtype)
        coarse = ops.patch_deembed(
            tokens,
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
            velocity += refinement(cells, sigma, tokens)
        velocity = velocity.to(cells.dtype)
        return velocity if self._frames is None else velocity.squeeze(1).unflatten(0, (-1, self._frames))

    def _matched_cells(self) -> Tensor:
        """The cells with c on the noisy channels, computed in float32."""
        spec = self._weights.spec
        if spec.start == "pi_resize":
            return self._cells
        factor = self._matched.input_scale.view(-1, 1, 1, 1, 1, 1, 1)
        if spec.in_channels > spec.out_channels:
            noisy = torch.arange(spec.in_channels, device=factor.device) < spec.out_channels
            factor = torch.where(noisy.view(-1, 1, 1), factor, 1.0)
        return self._cells * factor


def _compute_dtype(cells: Tensor) -> torch.dtype:
    device = cells.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return cells.dtype
