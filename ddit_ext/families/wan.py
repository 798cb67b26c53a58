"""Wan 2.1 and 2.2: text-, image- and video-to-video, VACE, Animate.

Space is merged, frames are not: patches of 1x2x2 latent pixels become 1x4x4 and 1x8x8. For one call other modules stand
in `patch_embedding`, `rope` and `proj_out` and around the layers that have a low-rank addition; the timestep is that of
the coarse latent, and conditions on the latent's grid are averaged. The forward of diffusers runs as it is.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..coarse.base_weights import read_tensor
from ..coarse.coarse_step import CoarseStep
from ..coarse.patch_layers import SHAPE, PatchLayers
from ..coarse.scale_weights import ScaleWeights
from .encoder import Encoder
from .grid import Grid, pool_latents
from .latent import CoarseEmbedding, CoarsePositions, LatentFamily, merged_rotary
from .model import ROWS, check_here, needed
from .published import Published

PATCH = 2
CONDITIONS = ("control_hidden_states", "pose_hidden_states")
"""Clean latents [B, C, F, H, W] that VACE and Animate embed by layers of their own."""

_LAYERS = PatchLayers(
    family="wan",
    embedding="patch_embedding",
    output="proj_out",
    output_order="channel_fastest",
    patch=PATCH,
    feed_forward=r"blocks\.\d+\.ffn\.net\.(0\.proj|2)",
    identity=(*SHAPE, "text_dim", "freq_dim", "ffn_dim", "image_dim", "added_kv_proj_dim"),
    samples=("condition_embedder.text_embedder.linear_1", "condition_embedder.time_embedder.linear_1"),
)
_SMALL = {
    "num_attention_heads": 12,
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 8960,
    "num_layers": 30,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
}


class WanEncoder(Encoder):
    """UMT5 embeddings; latents [B, C, F, H, W]."""

    PROMPT = {"prompt_embeds": "encoder_hidden_states"}
    FRAMES = 4

    @torch.no_grad()
    def text(self, captions: list[str]) -> dict[str, Tensor]:
        embeds, _ = self.pipe.encode_prompt(
            prompt=captions, do_classifier_free_guidance=False, max_sequence_length=self.max_sequence_length
        )
        return {"encoder_hidden_states": embeds}

    def latents(self, pixels: Tensor) -> Tensor:
        return self.by_channel(self.moments(pixels))


class WanEmbedding(CoarseEmbedding):
    """Stands in `patch_embedding`: tokens laid out as a convolution's [B, D, F, h', w']."""

    def __init__(self, step: CoarseStep, shape: tuple[int, int, int]) -> None:
        super().__init__(step)
        self.shape = shape

    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(hidden_states).transpose(1, 2).unflatten(2, self.shape)


class WanFamily(LatentFamily):
    """What is particular to Wan. Raises ValueError for patches other than 1x2x2."""

    NAME = "Wan"
    BLOCKS = ("blocks", "vace_blocks")
    TIMESTEP = 1000.0
    PARALLEL = frozenset({"", "rope", "blocks.0", "proj_out"})
    ROWS = ROWS | {"encoder_hidden_states_image"}

    PATCHES = {
        "WanTransformer3DModel": _LAYERS,
        "WanVACETransformer3DModel": replace(
            _LAYERS,
            family="wan-vace",
            feed_forward=r"(vace_)?" + _LAYERS.feed_forward,
            identity=(*_LAYERS.identity, "vace_in_channels", "vace_layers"),
        ),
        "WanAnimateTransformer3DModel": replace(_LAYERS, family="wan-animate"),
    }

    ENCODER = WanEncoder
    INPUTS = {"encoder_hidden_states": ("text", "text_dim")}
    PUBLISHED = {
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": Published(_SMALL),
        "Wan-AI/Wan2.1-T2V-14B-Diffusers": Published(
            _SMALL | {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}
        ),
    }

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__(transformer)
        patch = tuple(transformer.config.patch_size)
        if patch != (1, PATCH, PATCH):
            raise ValueError(f"transformer: patch_size must be (1, {PATCH}, {PATCH}), got {patch}")

    def noise_level(self, arguments: dict[str, Any], level: float | None = None) -> Tensor:
        """As `ModelFamily.noise_level`; [B, F] where each token has a timestep (`expand_timesteps`).

        Frames that are told the call's highest timestep are the ones that the sampler denoises. ValueError for a
        timestep of another shape, NotImplementedError for timesteps that differ within a frame.
        """
        timestep = needed(arguments, "timestep")
        if timestep.ndim < 2:
            return super().noise_level(arguments, level)
        grid = self.grid(arguments)
        if timestep.ndim != 2 or timestep.shape[1] != grid.tokens:
            raise ValueError(
                f"timestep must have shape [B] or [B, {grid.tokens}], one a token, got {tuple(timestep.shape)}"
            )
        frames = timestep.detach().float().unflatten(1, (grid.frames, -1))
        highest = frames.amax(2)
        if bool((frames.amin(2) != highest).any()):
            raise NotImplementedError(
                "timesteps that differ within a frame: coarse patches need one a frame, as Wan's pipelines have it"
            )
        stated = highest / self.TIMESTEP
        return stated if level is None else torch.where(highest == highest.amax(), level, stated)

    def generated(self, arguments: dict[str, Any]) -> tuple[int, ...] | None:
        """With a timestep a token, frames at a lower one than others are given."""
        if needed(arguments, "timestep").ndim < 2:
            return None
        levels = self.noise_level(arguments).amax(0).tolist()
        return tuple(frame for frame, level in enumerate(levels) if level == max(levels))

    def block_cost(self, arguments: dict[str, Any]) -> tuple[int, float]:
        """Text and image embeddings stand apart: 6·width² for both attentions' layers, 2·width·ffn_dim for the

        feed-forward ones, 2·width a text token for cross-attention.
        """
        names = ("encoder_hidden_states", "encoder_hidden_states_image")
        text = sum(arguments[name].shape[1] for name in names if isinstance(arguments.get(name), Tensor))
        return 0, 3.0 * self.width + self.transformer.config.ffn_dim + text

    def first_input(self, arguments: dict[str, Any]) -> Tensor:
        """[B, 6·D]: what modulates the blocks, without the tokens.

        It stands for the modulated input, as TeaCache has it for Wan: it depends on the noise level alone. With a
        timestep a token, that of the frames that the sampler denoises.
        """
        embedder = self.transformer.condition_embedder
        timestep, text = needed(arguments, "timestep"), needed(arguments, "encoder_hidden_states")
        check_here(self.transformer, embedder, text)
        return embedder(timestep.amax(1) if timestep.ndim == 2 else timestep, text)[1]

    def _rewrite(
        self, arguments: dict[str, Any], weights: ScaleWeights, grid: Grid, step: CoarseStep
    ) -> tuple[dict[str, Any], dict[str, nn.Module]]:
        shape = grid.coarse(weights.scale)
        timestep = self.timestep(step.timestep)
        if timestep.ndim == 2:
            timestep = timestep.repeat_interleave(shape[1] * shape[2], dim=1)
        changes: dict[str, Any] = {"timestep": timestep}
        for name in CONDITIONS:
            if arguments.get(name) is not None:
                changes[name] = pool_latents(arguments[name], grid, weights.scale, PATCH)
        replacements: dict[str, nn.Module] = {
            "patch_embedding": WanEmbedding(step, shape),
            "rope": CoarsePositions(*self._rotary(arguments["hidden_states"], grid, weights), self.ranks),
            "proj_out": self.projection(step),
        }
        return changes, replacements

    def _rotary(self, latents: Tensor, grid: Grid, weights: ScaleWeights) -> tuple[Tensor, Tensor]:
        """Cosines and sines [1, N_s, 1, head width] of the merged cells, kept for the calls of one grid."""
        rope = self.transformer.rope
        return self.kept(
            rope,
            grid,
            (weights.scale, weights.positions, latents.device),
            lambda: rotary_tables(self._here(latents), latents, grid, weights.scale, weights.positions),
        )

    def _here(self, latents: Tensor) -> nn.Module:
        """A copy of the model's `rope` whose tables lie where the latents do: offloading brings its own within the call."""
        rope = copy.copy(self.transformer.rope)
        rope._buffers = {
            name: read_tensor(self.transformer, "rope", name).to(latents.device) for name in rope._buffers
        }
        return rope


def rotary_tables(
    rope: nn.Module, latents: Tensor, grid: Grid, scale: int, positions: str
) -> tuple[Tensor, Tensor]:
    """`merged_rotary` of Wan's own tables, [1, N_s, 1, head width]. ValueError beyond the model's table.

    It is called past its hooks: that of context parallelism leaves only a rank's part.
    """
    longest = max(grid.coarse(scale)[1:]) * scale
    if positions == "centre" and longest > rope.max_seq_len:
        raise ValueError(
            f"hidden_states: {longest} cells along a side are more than the model's {rope.max_seq_len} positions"
        )

    def tables(frames: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        # A latent of so many cells that takes no memory: `rope` reads its shape alone.
        return type(rope).forward(
            rope, latents.new_empty(()).expand(1, 1, frames, rows * PATCH, columns * PATCH)
        )

    cos, sin = merged_rotary(tables, grid, scale, positions)
    return cos[None, :, None], sin[None, :, None]
