"""Z-Image: a list of latents [C, F, H, W] a sample, patches and positions made inside, the output is x - ε.

A coarse call is given empty latents of the coarse grid, whose tokens the patch embedding of the call replaces; the
last layer gives the latents as they have to be, so nothing is left to unpatchify.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..coarse.coarse_step import CoarseStep
from ..coarse.patch_layers import PatchLayers
from ..coarse.scale_weights import ScaleWeights
from .encoder import Encoder
from .grid import Grid, pool_tokens
from .latent import CoarseEmbedding, LatentFamily, WholeProjection
from .published import Published


class ZImageEncoder(Encoder):
    """Hidden states of Qwen3, a list of one tensor a caption; latents [B, C, 1, H, W]."""

    PROMPT = {"prompt_embeds": "cap_feats"}
    PADDED = True

    @torch.no_grad()
    def text(self, captions: list[str]) -> dict[str, Tensor]:
        embeds, _ = self.pipe.encode_prompt(
            captions, do_classifier_free_guidance=False, max_sequence_length=self.max_sequence_length
        )
        return self.fixed({"cap_feats": embeds}, len(captions))

    def latents(self, pixels: Tensor) -> Tensor:
        return self.shifted(self.moments(self.picture(pixels)))[:, :, None]


class ZEmbedding(CoarseEmbedding):
    """Stands in the patch embedding: tokens of merged cells, padded as the model expects them, [B·L, D]."""

    def forward(self, patches: Tensor) -> Tensor:
        return _padded(super().forward(patches)).flatten(0, 1)


class ZPositions:
    """Stands for `rope_embedder`, called with the image's ids first: the middle of merged cells, padding stays at 0."""

    def __init__(self, base: Callable[[Tensor], Tensor], scale: int) -> None:
        self.base = base
        self.scale = scale
        self.called = False

    def __call__(self, ids: Tensor) -> Tensor:
        if self.called:
            return self.base(ids)
        self.called = True
        inside = (ids[:, :1] > 0) & (torch.arange(3, device=ids.device) > 0)
        first = torch.where(inside, ids * self.scale, ids)
        # The rotation halfway between two is the direction of their sum.
        both = self.base(first + inside * ((self.scale - 1) // 2)) + self.base(
            first + inside * (self.scale // 2)
        )
        return both / both.abs()


class ZImageFamily(LatentFamily):
    """What is particular to Z-Image."""

    NAME = "Z-Image"
    BLOCKS = ("layers",)
    NORM = "all_final_layer.2-1"
    LATENTS, TIME = "x", "t"
    TIMESTEP, CLEAN = 0.0, 1.0
    RESIDUALS = ("controlnet_block_samples",)
    ROWS = frozenset({"t"})
    ENTRIES = frozenset({"x", "cap_feats"})
    ONLY = {"patch_size": (2, "not for coarse patches"), "f_patch_size": (1, "not for coarse patches")}

    PATCHES = {
        "ZImageTransformer2DModel": PatchLayers(
            family="z-image",
            embedding="all_x_embedder.2-1",
            output="all_final_layer.2-1.linear",
            embedding_order="channel_fastest",
            output_order="channel_fastest",
            patch=2,
            sign=-1,
            feed_forward=r"(noise_refiner|layers)\.\d+\.feed_forward\.w[123]",
            identity=("in_channels", "dim", "n_layers", "n_heads", "cap_feat_dim", "axes_dims"),
            samples=("cap_embedder.1",),
        )
    }

    ENCODER = ZImageEncoder
    DEPTHS = ("n_layers",)
    INPUTS = {"cap_feats": ("text", "cap_feat_dim")}
    JOINT, MULTIPLE = ("cap_feats",), 32
    PUBLISHED = {"Tongyi-MAI/Z-Image": Published()}

    @property
    def width(self) -> int:
        return self.transformer.config.dim

    def _rewrite(
        self, arguments: dict[str, Any], weights: ScaleWeights, grid: Grid, step: CoarseStep
    ) -> tuple[dict[str, Any], dict[str, nn.Module]]:
        frames, rows, columns = grid.coarse(weights.scale)
        sample = arguments["x"][0]
        empty = sample.new_zeros(()).expand(sample.shape[0], frames, 2 * rows, 2 * columns)
        changes: dict[str, Any] = {
            "x": [empty] * len(arguments["x"]),
            "t": self.coarse_timestep(arguments, step),
        }
        embedding, output = self.replaced
        replacements = {
            embedding: ZEmbedding(step),
            output: WholeProjection(step, frames * rows * columns, self.sign),
        }
        return changes | self.pooled(arguments, grid, weights.scale), replacements

    def pool(self, residual: Tensor, grid: Grid, scale: int) -> Tensor:
        """As `Family.pool`: tokens of the image lead, padded, and those of the text follow."""
        own = pool_tokens(residual[:, : grid.tokens], grid, scale)
        return torch.cat([_padded(own), residual[:, grid.tokens + -grid.tokens % self.MULTIPLE :]], dim=1)

    def attributes(self, weights: ScaleWeights) -> dict[str, Any]:
        """As `Family.attributes`: the positions, and the step after the last layer."""
        changed: dict[str, Any] = {"unpatchify": lambda latents, *sizes: latents}
        if weights.positions == "centre":
            changed["rope_embedder"] = ZPositions(self.transformer.rope_embedder, weights.scale)
        return changed


def _padded(tokens: Tensor) -> Tensor:
    return functional.pad(tokens, (0, 0, 0, -tokens.shape[1] % ZImageFamily.MULTIPLE))
