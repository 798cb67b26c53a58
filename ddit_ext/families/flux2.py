"""FLUX.2 (dev and klein): text-to-image and editing with reference pictures.

Its latents are normalised per channel and pixel of a 2x2 patch, so the four pixels of a patch are no samples of one
signal: a cell is one token of 128 channels (p = 1). Editing appends reference tokens, which stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..coarse.patch_layers import SHAPE, PatchLayers
from .encoder import Encoder
from .ids import IdsFamily
from .model import CALL
from .published import Published, non_commercial

KLEIN_4B = {
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "joint_attention_dim": 7680,
    "guidance_embeds": False,
}


class Flux2Encoder(Encoder):
    """Hidden states of a language model; latents [B, 128, h, w], a pixel a token."""

    PROMPT = {"prompt_embeds": "encoder_hidden_states"}
    PACKED = 2
    FACTOR = 16

    @torch.no_grad()
    def text(self, captions: list[str]) -> dict[str, Tensor]:
        embeds, _ = self.pipe.encode_prompt(prompt=captions, max_sequence_length=self.max_sequence_length)
        return {"encoder_hidden_states": embeds}

    def latents(self, pixels: Tensor) -> Tensor:
        found, vae = self.pipe._patchify_latents(self.moments(self.picture(pixels))), self.pipe.vae
        mean, variance = (s.view(1, -1, 1, 1).to(found) for s in (vae.bn.running_mean, vae.bn.running_var))
        return (found - mean) / torch.sqrt(variance + vae.config.batch_norm_eps)


class Flux2Family(IdsFamily):
    """What is particular to FLUX.2: ids of four columns, no biases, modulation that all blocks share."""

    NAME = "FLUX.2"
    IDS = 4

    BLOCKS = ("transformer_blocks", "single_transformer_blocks")
    PARALLEL = frozenset({"", "proj_out"})
    WHOLE = CALL | {"img_ids", "txt_ids"}
    ONLY = {
        "kv_cache_mode": (
            None,
            "a cache holds what a step at scale 1 made of the references, so it is not for coarse patches; use "
            "Flux2KleinPipeline, which appends them at every step",
        )
    }

    PATCHES = {
        "Flux2Transformer2DModel": PatchLayers(
            family="flux2",
            embedding="x_embedder",
            output="proj_out",
            patch=1,
            feed_forward=(
                r"transformer_blocks\.\d+\.(ff|ff_context)\.linear_(in|out)"
                # Fused with the attention's own products in a single-stream block.
                r"|single_transformer_blocks\.\d+\.attn\.(to_qkv_mlp_proj|to_out)"
            ),
            identity=(
                *SHAPE,
                "num_single_layers",
                "joint_attention_dim",
                "guidance_embeds",
                "axes_dims_rope",
            ),
            samples=("context_embedder", "time_guidance_embed.timestep_embedder.linear_1"),
        )
    }

    ENCODER = Flux2Encoder
    INPUTS = {"encoder_hidden_states": ("text", "joint_attention_dim")}
    LINEAR = 6.5  # 4·width² for attention, 9·width² for gated feed-forward layers of 3·width
    PUBLISHED = {
        "black-forest-labs/FLUX.2-dev": Published(
            licence=non_commercial("black-forest-labs/FLUX.2-dev", "flux-dev-non-commercial-license")
        ),
        "black-forest-labs/FLUX.2-klein-base-4B": Published(KLEIN_4B),
    }

    def finished(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """As `Family.finished`: the ids of the text count its tokens in the last column."""
        text = arguments["encoder_hidden_states"]
        ids = torch.zeros(text.shape[1], self.IDS, device=text.device)
        ids[:, 3] = torch.arange(text.shape[1], device=text.device)
        return {"txt_ids": ids} | arguments
