"""HunyuanVideo 1.5: text- and image-to-video; patches of one latent pixel, conditions in further channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..coarse.coarse_step import CoarseStep
from ..coarse.patch_layers import SHAPE, PatchLayers
from ..coarse.scale_weights import ScaleWeights
from .encoder import Encoder
from .grid import Grid
from .latent import CoarseEmbedding, CoarsePositions, LatentFamily, merged_rotary
from .model import ROWS
from .published import Published

TEXT = {
    "prompt_embeds": "encoder_hidden_states",
    "prompt_embeds_mask": "encoder_attention_mask",
    "prompt_embeds_2": "encoder_hidden_states_2",
    "prompt_embeds_mask_2": "encoder_attention_mask_2",
}


class HunyuanVideo15Encoder(Encoder):
    """Qwen2.5-VL and ByT5 with masks, of the lengths that the pipeline pads them to; latents [B, C, F, H, W]."""

    PROMPT = TEXT
    FACTOR = 16
    FRAMES = 4

    @torch.no_grad()
    def text(self, captions: list[str]) -> dict[str, Tensor]:
        found = self.pipe.encode_prompt(captions, batch_size=len(captions))
        return dict(zip(TEXT.values(), found, strict=True))

    def latents(self, pixels: Tensor) -> Tensor:
        return self.moments(pixels) * self.pipe.vae.config.scaling_factor


class HunyuanVideo15Family(LatentFamily):
    """What is particular to HunyuanVideo 1.5. Raises ValueError for patches of other than one latent pixel."""

    NAME = "HunyuanVideo 1.5"
    BLOCKS = ("transformer_blocks",)
    TIMESTEP = 1000.0
    ROWS = ROWS | set(TEXT.values()) | {"image_embeds", "timestep_r"}

    ONLY = {
        "timestep_r": (
            None,
            "a mean velocity (use_meanflow) has no larger patches: they tell another noise level",
        )
    }

    PATCHES = {
        "HunyuanVideo15Transformer3DModel": PatchLayers(
            family="hunyuan-video-1.5",
            embedding="x_embedder.proj",
            output="proj_out",
            patch=1,
            feed_forward=r"transformer_blocks\.\d+\.(ff|ff_context)\.net\.(0\.proj|2)",
            identity=(*SHAPE, "text_embed_dim", "task_type", "use_meanflow"),
            samples=("context_embedder_2.linear_1",),
        )
    }

    ENCODER = HunyuanVideo15Encoder
    JOINT = ("encoder_hidden_states", "encoder_hidden_states_2", "image_embeds")
    INPUTS = {  # the texts as long as the pipeline pads them, one token in the place of a picture
        "encoder_hidden_states": (1000, "text_embed_dim"),
        "encoder_attention_mask": (1000,),
        "encoder_hidden_states_2": (256, "text_embed_2_dim"),
        "encoder_attention_mask_2": (256,),
        "image_embeds": (1, "image_embed_dim"),
    }
    PUBLISHED = {
        "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v": Published(
            licence={"license": "other", "license_name": "tencent-hunyuan-community"}
        )
    }

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__(transformer)
        config = transformer.config
        if (config.patch_size, config.patch_size_t) != (1, 1):
            raise ValueError(
                f"transformer: patch_size and patch_size_t must be 1, got {config.patch_size}, {config.patch_size_t}"
            )

    def training_call(self, latents: Tensor, conditions: dict[str, Any]) -> dict[str, Any]:
        """As `LatentFamily.training_call`; without `condition_latents` and `image_embeds` those of text-to-video."""
        arguments, config = super().training_call(latents, conditions), self.transformer.config
        batch, _, frames, height, width = latents.shape
        shape = (batch, self.in_channels - self.out_channels, frames, height, width)
        arguments.setdefault("condition_latents", latents.new_zeros(shape))
        arguments.setdefault("image_embeds", latents.new_zeros(batch, 1, config.image_embed_dim))
        return arguments

    def _rewrite(
        self, arguments: dict[str, Any], weights: ScaleWeights, grid: Grid, step: CoarseStep
    ) -> tuple[dict[str, Any], dict[str, nn.Module]]:
        rope, latents = self.transformer.rope, arguments["hidden_states"]

        def tables(frames: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
            return rope(latents.new_empty(()).expand(1, 1, frames, rows, columns))

        positions = self.kept(
            rope,
            grid,
            (weights.scale, weights.positions, latents.device),
            lambda: merged_rotary(tables, grid, weights.scale, weights.positions),
        )
        replacements: dict[str, nn.Module] = {
            "x_embedder": CoarseEmbedding(step),
            "rope": CoarsePositions(*positions),
            "proj_out": self.projection(step),
        }
        return {"timestep": self.coarse_timestep(arguments, step)}, replacements
