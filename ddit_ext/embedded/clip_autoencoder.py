"""The embedded Wan's autoencoder: 4x4 pixels and four frames to one latent, causal, cheap enough for a CPU.

Wan's own autoencoder convolves at the pixels' resolution, which is most of its cost. This one cuts a clip into cells of
4x4 pixels first (of the first frame alone, then of four frames each) and convolves over cells. Its latents have Wan's
layout, and it answers the calls that diffusers' Wan pipelines make.
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor, nn

CELL, GROUP = 4, 4  # pixels a side and frames of a cell
_FIRST, _LATER = 3 * CELL**2, 3 * CELL**2 * GROUP  # numbers in a cell of the first frame, and of the others


def to_cells(clip: Tensor, frames: int) -> Tensor:
    """``[B, 3, F, H, W]`` -> ``[B, 3 * frames * 16, F / frames, H / 4, W / 4]``."""
    batch, channels, count, height, width = clip.shape
    cells = clip.reshape(
        batch, channels, count // frames, frames, height // CELL, CELL, width // CELL, CELL
    ).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return cells.reshape(batch, channels * frames * CELL**2, count // frames, height // CELL, width // CELL)


def to_clip(cells: Tensor, frames: int) -> Tensor:
    """The inverse of :func:`to_cells`."""
    batch, _, count, rows, columns = cells.shape
    clip = cells.reshape(batch, 3, frames, CELL, CELL, count, rows, columns).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return clip.reshape(batch, 3, count * frames, rows * CELL, columns * CELL)


class Block(nn.Module):
    """A residual block over cells: 3x3 in space, then the last three latent frames, in time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_space, self.norm_time = nn.GroupNorm(1, width), nn.GroupNorm(1, width)
        self.space = nn.Conv2d(width, width, 3, padding=1)
        self.time = nn.Conv2d(3 * width, width, 1)
        self.out = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, F, C, h, w]`` -> the same."""
        batch, frames = x.shape[:2]
        # Norms see one frame each: one over several would let the first know of the later ones.
        y = self.space(nn.functional.silu(self.norm_space(x.flatten(0, 1))))
        y = nn.functional.silu(self.norm_time(y)).unflatten(0, (batch, frames))
        before = torch.cat([y[:, :1], y[:, :1], y], dim=1)
        y = self.time(torch.cat([before[:, :-2], before[:, 1:-1], y], dim=2).flatten(0, 1))
        return x + self.out(nn.functional.silu(y)).unflatten(0, (batch, frames))


class Coder(nn.Module):
    """Blocks beside a linear map: it starts as the linear map alone, and learns what that lacks."""

    def __init__(self, inputs: tuple[int, int], outputs: tuple[int, int], width: int, blocks: int) -> None:
        super().__init__()
        pairs = list(zip(inputs, outputs, strict=True))  # for the first latent frame, and for the later ones
        self.linear = nn.ModuleList(nn.Conv2d(i, o, 1) for i, o in pairs)
        self.enter = nn.ModuleList(nn.Conv2d(i, width, 1) for i, _ in pairs)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.leave = nn.ModuleList(nn.Conv2d(width, o, 1) for _, o in pairs)
        for head in self.leave:
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, first: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, 1, C, h, w]`` and ``[B, F - 1, C', h, w]`` -> the same with the outputs' channels."""
        x = torch.cat([_each(self.enter[0], first), _each(self.enter[1], later)], dim=1)
        x = self.blocks(x)
        return (
            _each(self.linear[0], first) + _each(self.leave[0], x[:, :1]),
            _each(self.linear[1], later) + _each(self.leave[1], x[:, 1:]),
        )


def _each(layer: nn.Module, x: Tensor) -> Tensor:
    """A picture layer on each frame of ``[B, F, C, h, w]``, of which there may be none."""
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class ClipAutoencoder(ModelMixin, ConfigMixin):
    """Clips ``[B, 3, 1 + 4n, H, W]`` in [-1, 1] <-> latents ``[B, z_dim, 1 + n, H / 4, W / 4]``.

    ``latents_mean`` and ``latents_std``, one number a channel, are the pipelines' to apply, as with Wan's.
    """

    @register_to_config
    def __init__(
        self,
        z_dim: int = 24,
        encoder_width: int = 64,
        decoder_width: int = 96,
        encoder_blocks: int = 2,
        decoder_blocks: int = 4,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
        scale_factor_temporal: int = GROUP,
        scale_factor_spatial: int = CELL,
    ) -> None:
        super().__init__()
        pixels, latents = (_FIRST, _LATER), (z_dim, z_dim)
        self.encoder = Coder(pixels, latents, encoder_width, encoder_blocks)
        self.decoder = Coder(latents, pixels, decoder_width, decoder_blocks)

    def encode(self, clip: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple:
        """Latents as a distribution without spread, so that ``sample`` and ``mode`` agree.

        Raises:
            ValueError: a frame count that is not 1 + 4n, or a height or width that 4 does not divide.
        """
        frames, height, width = clip.shape[2:]
        if frames % GROUP != 1 or height % CELL or width % CELL:
            raise ValueError(
                f"clip must have 1 + {GROUP}n frames and a height and width divisible by {CELL}, "
                f"got {frames} frames of {height}x{width}"
            )
        parts = to_cells(clip[:, :, :1], 1), to_cells(clip[:, :, 1:], GROUP)
        first, later = self.encoder(*(part.transpose(1, 2) for part in parts))
        latents = torch.cat([first, later], dim=1).transpose(1, 2)
        posterior = DiagonalGaussianDistribution(
            torch.cat([latents, torch.zeros_like(latents)], dim=1), deterministic=True
        )
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, latents: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        x = latents.transpose(1, 2)
        first, later = (part.transpose(1, 2) for part in self.decoder(x[:, :1], x[:, 1:]))
        clip = torch.cat([to_clip(first, 1), to_clip(later, GROUP)], dim=2)
        if not self.training:  # a clamp has no gradient where it is needed most
            clip = clip.clamp(-1, 1)
        return DecoderOutput(sample=clip) if return_dict else (clip,)
