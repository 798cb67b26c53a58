"""One coarse call of a transformer: what goes into its blocks, and the velocity from what comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import ops
from .noise_match import estimate_detail, gain_at, high_band_energy
from .residual import join_bands, split_bands

if TYPE_CHECKING:
    from .levels import Levels
    from .scale_weights import ScaleWeights


class CoarseStep:
    """One coarse call in progress: made by :meth:`ScaleWeights.prepare`, used once.

    ``timestep`` [B] float32 is the noise level that the blocks are told; [B, F] where each frame has its own.
    """

    def __init__(
        self,
        weights: ScaleWeights,
        cells: Tensor,
        levels: Levels,
        dtype: torch.dtype,
        frames: int | None = None,
    ):
        self._weights = weights
        self._frames = frames  # by which samples of one frame are put together; None: they are whole
        self._cells = cells
        self._levels = levels
        self._dtype = dtype
        timestep = levels.timestep.expand(cells.shape[0])
        self.timestep = timestep if frames is None else timestep.unflatten(0, (-1, frames))

    def tokens(self) -> Tensor:
        """The image tokens [B, N_s, D] of the coarse patches, in the model's (or autocast's) dtype."""
        weights, cells, dtype, factor = self._weights, self._cells, self._dtype, self._levels.input_scale
        if factor is None:
            cells = cells.to(dtype)
        elif cells.dtype not in (dtype, torch.float32):
            cells = cells.float()
        tokens = ops.patch_embed(
            cells,
            weights.embed_weight.to(dtype),
            self._levels.bias[0],
            None,
            None,
            1.0,
            weights.scale,
            factor,  # c on the noisy channels
        )
        return tokens if self._frames is None else tokens.unflatten(0, (-1, self._frames)).flatten(1, 2)

    def velocity(self, tokens: Tensor) -> Tensor:
        """The velocity as cells [B, F, h, w, C_out, p, p] in the latents' dtype and on their device.

        Args:
            tokens: [B, N_s, D], what would have gone into the output projection, on any device.
        """
        weights, cells, levels = self._weights, self._cells, self._levels
        grid = list(cells.shape[1:4])
        if self._frames is not None:
            tokens = tokens.unflatten(1, (self._frames, -1)).flatten(0, 1)
        tokens = tokens.to(cells.device, self._dtype)
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
        low, detail = split_bands(cells[:, :, :, :, : weights.spec.out_channels], weights.scale)
        residual = join_bands(low, detail, self._gain(detail), levels.beta, coarse)
        alpha, how = levels.alpha.view(-1, 1, 1, 1, 1, 1, 1), {"like": coarse, "dtype": cells.dtype}
        if weights.refinement is None:
            velocity = rounded(torch.addcmul, residual, coarse, alpha, **how)
        else:
            velocity = torch.addcmul(residual, coarse, alpha)
            velocity = rounded(torch.add, velocity, weights.refinement(cells, levels.hidden, tokens), **how)
        return velocity if self._frames is None else velocity.squeeze(1).unflatten(0, (-1, self._frames))

    def _gain(self, detail: Tensor) -> Tensor:
        """g of each sample [B], or [1] where it is the same for all."""
        levels = self._levels
        if levels.gain is not None:
            return levels.gain
        with torch.no_grad():
            line = (levels.detail_start, levels.detail_slope)
            variance = estimate_detail(line, high_band_energy(detail))
        return gain_at(levels.gain_start, levels.gain_slope, variance)


def rounded(op: Callable[..., Tensor], *operands: Tensor, like: Tensor, dtype: torch.dtype) -> Tensor:
    """op(*operands), computed in float32, in ``dtype`` and laid out as ``like``.

    By one launch, which rounds where it writes; but `out=` has no gradients, and a compiler loses its layout.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return torch.empty_like(like, dtype=dtype).copy_(op(*operands))
    return op(*operands, out=torch.empty_like(like, dtype=dtype))


def compute_dtype(cells: Tensor) -> torch.dtype:
    """In which dtype tokens of these cells are computed."""
    device = cells.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return cells.dtype
