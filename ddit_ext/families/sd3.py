"""Stable Diffusion 3 and 3.5: text-to-image, img2img, inpaint and ControlNet; positions are added, from a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..coarse.base_weights import read_tensor
from ..coarse.coarse_step import CoarseStep
from ..coarse.patch_layers import SHAPE, PatchLayers
from ..coarse.scale_weights import ScaleWeights
from .encoder import Encoder
from .grid import Grid, centres
from .latent import CoarseEmbedding, LatentFamily
from .model import ROWS
from .published import Published

LARGE = {
    "num_layers": 38,
    "num_attention_heads": 38,
    "attention_head_dim": 64,
    "caption_projection_dim": 2432,
    "pos_embed_max_size": 192,
    "qk_norm": "rms_norm",
}


class SD3Encoder(Encoder):
    """CLIP and T5 embeddings; latents [B, C, H, W]."""

    PROMPT = {"prompt_embeds": "encoder_hidden_states", "pooled_prompt_embeds": "pooled_projections"}

    @torch.no_grad()
    def text(self, captions: list[str]) -> dict[str, Tensor]:
        embeds, _, pooled, _ = self.pipe.encode_prompt(
            captions,
            None,
            None,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
        )
        return {"encoder_hidden_states": embeds, "pooled_projections": pooled}

    def rows(self, text: Mapping[str, Any]) -> dict[str, Tensor]:
        """The last row: a call with guidance has the negative prompt's first."""
        return super().rows({name: value[-1:] for name, value in text.items()})

    def latents(self, pixels: Tensor) -> Tensor:
        return self.shifted(self.moments(self.picture(pixels)))


class SD3Embedding(CoarseEmbedding):
    """Stands in `pos_embed`: tokens of merged cells with their positions added."""

    def __init__(self, step: CoarseStep, positions: Tensor) -> None:
        super().__init__(step)
        self.positions = positions

    def forward(self, latents: Tensor) -> Tensor:
        tokens = super().forward(latents)
        return tokens + self.positions.to(tokens.dtype)


class SD3Family(LatentFamily):
    """What is particular to Stable Diffusion 3."""

    NAME = "Stable Diffusion 3"
    DIMENSIONS = 4
    BLOCKS = ("transformer_blocks",)
    TIMESTEP = 1000.0
    RESIDUALS = ("block_controlnet_hidden_states",)
    ROWS = ROWS | set(RESIDUALS)

    PATCHES = {
        "SD3Transformer2DModel": PatchLayers(
            family="sd3",
            embedding="pos_embed.proj",
            output="proj_out",
            output_order="channel_fastest",
            patch=2,
            feed_forward=r"transformer_blocks\.\d+\.(ff|ff_context)\.net\.(0\.proj|2)",
            identity=(*SHAPE, "joint_attention_dim", "pooled_projection_dim", "pos_embed_max_size"),
            samples=("context_embedder", "time_text_embed.timestep_embedder.linear_1"),
        )
    }

    ENCODER = SD3Encoder
    INPUTS = {
        "encoder_hidden_states": ("text", "joint_attention_dim"),
        "pooled_projections": ("pooled_projection_dim",),
    }
    PUBLISHED = {
        "stabilityai/stable-diffusion-3.5-large": Published(
            LARGE, {"license": "other", "license_name": "stabilityai-ai-community"}
        )
    }

    def _rewrite(
        self, arguments: dict[str, Any], weights: ScaleWeights, grid: Grid, step: CoarseStep
    ) -> tuple[dict[str, Any], dict[str, nn.Module]]:
        changes = {"timestep": self.coarse_timestep(arguments, step)}
        device = self.latents(arguments).device
        key = (weights.scale, weights.positions, device)
        positions = self.kept(
            self.transformer.pos_embed, grid, key, lambda: self.positions(grid, weights).to(device)
        )
        replacements: dict[str, nn.Module] = {
            "pos_embed": SD3Embedding(step, positions),
            "proj_out": self.projection(step),
        }
        return changes | self.pooled(arguments, grid, weights.scale), replacements

    def positions(self, grid: Grid, weights: ScaleWeights) -> Tensor:
        """[1, N_s, D]: the table of the base at the merged cells, bilinear between its entries as the paper has it.

        ValueError for more cells than the table has. Offloading may bring the table to the device within the call, so it is read from where it is now.
        """
        side, scale = self.transformer.pos_embed.pos_embed_max_size, weights.scale
        table = read_tensor(self.transformer, "pos_embed", "pos_embed").view(side, side, -1).float()
        for dim, (fine, count) in enumerate(
            zip((grid.rows, grid.columns), grid.coarse(scale)[1:], strict=True)
        ):
            shown = fine if weights.positions == "centre" else count
            if shown > side:
                raise ValueError(
                    f"{self.LATENTS}: {shown} cells along a side are more than the model's {side} positions "
                    "(pos_embed_max_size)"
                )
            at = (centres(count, scale, weights.positions, table.device) + (side - shown) // 2).clamp(
                max=side - 1
            )
            low, high = at.floor().long(), at.ceil().long()
            table = (table.index_select(dim, low) + table.index_select(dim, high)) / 2
        return table.flatten(0, 1)[None]
