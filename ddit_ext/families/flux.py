"""FLUX.1: text-to-image, img2img, inpaint, Fill, Kontext, Control, ControlNet and IP-Adapter.

For one call other modules stand in `x_embedder`, `proj_out` and around the layers that have a low-rank addition; the
arguments get the coarse positions, the timestep of the coarse latent and pooled ControlNet residuals. The forward of
diffusers runs as it is, and returns the full fine shape.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ..coarse.coarse_step import CoarseStep
from ..coarse.patch_layers import SHAPE, PatchLayers
from ..coarse.scale_weights import ScaleWeights
from .encoder import Encoder
from .grid import Grid
from .ids import IdsFamily, flat, version_of
from .latent import CoarsePositions
from .model import CALL, ROWS, check_here, needed
from .published import Published, non_commercial

DEV = {
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
}


class FluxEncoder(Encoder):
    """T5 and CLIP embeddings; latents [B, C, H, W]."""

    PROMPT = {"prompt_embeds": "encoder_hidden_states", "pooled_prompt_embeds": "pooled_projections"}

    @torch.no_grad()
    def text(self, captions: list[str]) -> dict[str, Tensor]:
        embeds, pooled, _ = self.pipe.encode_prompt(
            prompt=captions, prompt_2=None, max_sequence_length=self.max_sequence_length
        )
        return {"encoder_hidden_states": embeds, "pooled_projections": pooled}

    def latents(self, pixels: Tensor) -> Tensor:
        return self.shifted(self.moments(self.picture(pixels)))


class FluxFamily(IdsFamily):
    """What is particular to FLUX. Raises ValueError for channels that are not packed."""

    NAME = "FLUX"

    BLOCKS = ("transformer_blocks", "single_transformer_blocks")
    TIMESTEP = 1.0
    PARALLEL = frozenset({"", "proj_out"})
    RESIDUALS = ("controlnet_block_samples", "controlnet_single_block_samples")
    ROWS = ROWS | set(RESIDUALS)
    WHOLE = CALL | {"img_ids", "txt_ids", "controlnet_blocks_repeat"}

    PATCHES = {
        "FluxTransformer2DModel": PatchLayers(
            family="flux",
            embedding="x_embedder",
            output="proj_out",
            patch=2,  # packed by the pipeline; the config's patch_size of 1 counts packed tokens
            feed_forward=(
                r"transformer_blocks\.\d+\.(ff|ff_context)\.net\.(0\.proj|2)"
                # A single-stream block has its feed-forward layers fused with the attention's output.
                r"|single_transformer_blocks\.\d+\.(proj_mlp|proj_out)"
            ),
            identity=(
                *SHAPE,
                "num_single_layers",
                "joint_attention_dim",
                "pooled_projection_dim",
                "guidance_embeds",
                "axes_dims_rope",
            ),
            samples=("context_embedder", "time_text_embed.timestep_embedder.linear_1"),
        )
    }

    ENCODER = FluxEncoder
    INPUTS = {
        "encoder_hidden_states": ("text", "joint_attention_dim"),
        "pooled_projections": ("pooled_projection_dim",),
    }
    PUBLISHED = {
        "black-forest-labs/FLUX.1-dev": Published(
            DEV, non_commercial("black-forest-labs/FLUX.1-dev", "flux-1-dev-non-commercial-license")
        ),
        "black-forest-labs/FLUX.1-schnell": Published(DEV | {"guidance_embeds": False}),
    }

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__(transformer)
        # By the text's ids, of which each branch of guidance has its own, and scale: their version, the coarse ids, the
        # module, and its tables at them.
        self._tables: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def first_input(self, arguments: dict[str, Any]) -> Tensor:
        """[B, N, D]: the tokens as the first block's norm modulates them, references among them."""
        transformer = self.transformer
        hidden_states = needed(arguments, "hidden_states")
        check_here(transformer, transformer.x_embedder, hidden_states)
        tokens = transformer.x_embedder(hidden_states)
        levels = (arguments.get("timestep"), arguments.get("guidance"))
        told = [1000 * level.to(tokens.dtype) for level in levels if level is not None]
        modulation = transformer.time_text_embed(*told, needed(arguments, "pooled_projections"))
        return transformer.transformer_blocks[0].norm1(tokens, emb=modulation)[0]

    def _rewrite(
        self, arguments: dict[str, Any], weights: ScaleWeights, grid: Grid, step: CoarseStep
    ) -> tuple[dict[str, Any], dict[str, nn.Module]]:
        changes, replacements = super()._rewrite(arguments, weights, grid, step)
        text = arguments.get("txt_ids")
        if isinstance(text, Tensor) and self.ranks is None:  # a rank rotates its own tokens
            tables = self._rotary(text, changes["img_ids"], weights.scale)
            replacements["pos_embed"] = CoarsePositions(*tables)
        return changes | self.pooled(arguments, grid, weights.scale), replacements

    def _rotary(self, text: Tensor, ids: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        """The model's own tables at the ids of text and merged cells, kept for the calls of one run."""
        module, kept, version = (
            self.transformer.pos_embed,
            self._tables.setdefault(text, {}),
            version_of(text),
        )
        known = kept.get(scale)
        if known is None or not (known[0] == version and known[1] is ids and known[2] is module):
            with torch.inference_mode(False), torch.no_grad():  # may be read in any mode later
                tables = module(torch.cat([flat(text), flat(ids)]))
            known = kept[scale] = (version, ids, module, tables)
        return known[3]
