"""Qwen-Image: text-to-image, img2img, inpaint, ControlNet, Edit and Edit-Plus.

Positions are made inside from `img_shapes`, counted from the middle of the picture, so the module of the positions is
replaced for a coarse call. Reference pictures are appended and stay as they are.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ..coarse.coarse_step import CoarseStep
from ..coarse.patch_layers import SHAPE, PatchLayers
from ..coarse.scale_weights import ScaleWeights
from .encoder import Encoder
from .grid import Grid, centres
from .model import ROWS
from .packed import PackedFamily
from .published import Published

TEXT = ("encoder_hidden_states", "encoder_hidden_states_mask")


class QwenImageEncoder(Encoder):
    """Hidden states of Qwen2.5-VL with a mask, padded to one length; latents [B, C, H, W]."""

    PROMPT = {"prompt_embeds": TEXT[0], "prompt_embeds_mask": TEXT[1]}
    GUIDANCE = "true_cfg_scale"
    PADDED, MASK = True, TEXT[1]

    @torch.no_grad()
    def text(self, captions: list[str]) -> dict[str, Tensor]:
        embeds, mask = self.pipe.encode_prompt(captions, max_sequence_length=self.max_sequence_length)
        return self.fixed({TEXT[0]: embeds, TEXT[1]: mask}, len(captions))

    def latents(self, pixels: Tensor) -> Tensor:
        self.picture(pixels)
        return self.by_channel(self.moments(pixels))[:, :, 0]


class QwenPositions(nn.Module):
    """Stands in `pos_embed`: positions of merged cells for the latent, the model's own for references and text."""

    def __init__(self, base: nn.Module, table: Tensor, shapes: Any, own: int) -> None:
        super().__init__()
        self.base = base
        self.table = table
        self.shapes = shapes
        self.own = own  # tokens of the latent at scale 1

    def forward(self, video_fhw: Any, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        image, text = self.base(self.shapes, *args, **options)
        return torch.cat([self.table, image[self.own :]]), text


def _rotary(base: nn.Module, grid: Grid, scale: int) -> Tensor:
    """Turns of merged cells [N_s, head width / 2], complex; rows and columns count from the picture's middle."""
    cpu, merged, fine = torch.device("cpu"), grid.coarse(scale)[1:], (grid.rows, grid.columns)
    at = zip(merged, fine, strict=True)
    middles = [centres(count, scale, "centre", cpu) - (side - side // 2) for count, side in at]
    with cpu:
        frame, rows, columns = (
            base.rope_params(places, width, base.theta)
            for places, width in zip((torch.zeros(1), *middles), base.axes_dim, strict=True)
        )
    shape = (len(rows), len(columns), -1)
    tables = (frame[:, None].expand(shape), rows[:, None].expand(shape), columns.expand(shape))
    return torch.cat(tables, dim=-1).flatten(0, 1)


class QwenImageFamily(PackedFamily):
    """What is particular to Qwen-Image."""

    NAME = "Qwen-Image"
    BLOCKS = ("transformer_blocks",)
    RESIDUALS = ("controlnet_block_samples",)
    ROWS = ROWS | set(RESIDUALS) | {"additional_t_cond"}
    ENTRIES = frozenset({"img_shapes", "txt_seq_lens"})

    PATCHES = {
        "QwenImageTransformer2DModel": PatchLayers(
            family="qwen-image",
            embedding="img_in",
            output="proj_out",
            patch=2,
            feed_forward=r"transformer_blocks\.\d+\.(img|txt)_mlp\.net\.(0\.proj|2)",
            identity=(*SHAPE, "joint_attention_dim", "axes_dims_rope", "zero_cond_t"),
            samples=("txt_in", "time_text_embed.timestep_embedder.linear_1"),
        )
    }

    ENCODER = QwenImageEncoder
    INPUTS = {"encoder_hidden_states": ("text", "joint_attention_dim")}
    PUBLISHED = {"Qwen/Qwen-Image": Published()}

    def grid(self, arguments: dict[str, Any]) -> Grid:
        """The grid of the first shape of `img_shapes`; those after it are references. ValueError where they don't fit."""
        shapes = [list(s) if isinstance(s, list) else [s] for s in arguments.get("img_shapes") or ()]
        tokens = self.latents(arguments).shape[1]
        if not shapes or any(shape != shapes[0] for shape in shapes):
            raise ValueError(f"img_shapes must be the same for all samples of a batch, got {shapes}")
        (frames, rows, columns), *references = shapes[0]
        own, more = frames * rows * columns, sum(prod(reference) for reference in references)
        if frames != 1 or own + more != tokens:
            raise ValueError(f"img_shapes must name one picture and {tokens} tokens in all, got {shapes[0]}")
        return Grid(1, rows, columns, more)

    def places(self, batch: int, rows: int, columns: int, like: Tensor) -> dict[str, Any]:
        return {"img_shapes": [[(1, rows, columns)]] * batch}

    def finished(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """As `Family.finished`: diffusers before 0.37 asks for the lengths of the texts, all of them padded to one."""
        text = arguments["encoder_hidden_states"]
        lengths = {"txt_seq_lens": [text.shape[1]] * len(text)}
        return (lengths if "txt_seq_lens" in self._parameters else {}) | arguments

    def check(self, arguments: dict[str, Any], weights: ScaleWeights) -> None:
        """As `Family.check`; the layered variant denoises several pictures in one sequence."""
        super().check(arguments, weights)
        if self.transformer.config.get("use_layer3d_rope"):
            raise NotImplementedError("use_layer3d_rope (Qwen-Image-Layered): not for coarse patches")

    def _rewrite(
        self, arguments: dict[str, Any], weights: ScaleWeights, grid: Grid, step: CoarseStep
    ) -> tuple[dict[str, Any], dict[str, nn.Module]]:
        shapes, merged = arguments["img_shapes"], (1, *grid.coarse(weights.scale)[1:])
        coarse = [[merged, *(shape[1:] if isinstance(shape, list) else ())] for shape in shapes]
        changes: dict[str, Any] = {"timestep": self.coarse_timestep(arguments, step), "img_shapes": coarse}
        replacements = self.stand_ins(step, grid)
        if weights.positions == "centre":
            base, device = self.transformer.pos_embed, self.latents(arguments).device
            table = self.kept(
                base, grid, (weights.scale, device), lambda: _rotary(base, grid, weights.scale).to(device)
            )
            replacements["pos_embed"] = QwenPositions(base, table, shapes, grid.tokens)
        return changes | self.pooled(arguments, grid, weights.scale), replacements
