"""Families without a file: TeaCache's rule by the contract that most transformers of diffusers keep.

The contract: the image's tokens enter the first block as its first argument or as `hidden_states`; blocks are called
from lists, so that empty lists leave them out; the tokens that leave the last block enter one module, mostly a norm.
What the blocks add (their residual) is then the difference between the two, whatever the blocks return. A row here, or
`register_blocks`, says the names.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from .grid import Grid
from .model import ModelFamily, class_of

ONE = ("transformer_blocks",)
TWO = ("transformer_blocks", "single_transformer_blocks")


class BlocksFamily(ModelFamily):
    """A model whose blocks are known, and nothing else: no larger patches, no training."""

    replaced = ()  # as `Family.replaced`

    def grid(self, arguments: Mapping[str, Any]) -> Grid:
        """ValueError: where the tokens lie is not known."""
        raise ValueError(f"{self.NAME}: the grid of its tokens is not known")

    def tokens(self, arguments: Mapping[str, Any], scale: int) -> int:
        """Image tokens of a sample, by the shape of the latents and the configured patch."""
        shape, config = self.latents(arguments).shape[1:], self.transformer.config
        if len(shape) == 2:
            return shape[0]
        patch = config.get("patch_size", 1)
        if isinstance(patch, int):
            patch = (config.get("patch_size_t") or 1, patch, patch)
        return prod(side // of for side, of in zip(reversed(shape[1:]), reversed(patch), strict=False))

    def block_cost(self, arguments: Mapping[str, Any]) -> tuple[int, float]:
        """As `Family.block_cost`, for reports alone: text is not counted."""
        config = self.transformer.config
        names = ("hidden_size", "dim", "model_dim")
        width = next((config[name] for name in names if name in config), None)
        return 0, 6.0 * (width or config.num_attention_heads * config.attention_head_dim)


def register_blocks(
    model: str,
    name: str,
    blocks: tuple[str, ...] = ONE,
    norm: str = "norm_out",
    *,
    timestep: float = 1000.0,
    clean: float = 0.0,
    latents: str = "hidden_states",
) -> None:
    """Make TeaCache's rule known to transformers of one class.

    Args:
        model: name of the class.
        name: the family's, for reports and errors.
        blocks: names of the lists of blocks, in the order of their calls.
        norm: what is called once, on the output of the last block.
        timestep, clean: the `timestep` of a call at noise level 1 and at 0.
        latents: the argument that is denoised.

    Raises:
        ValueError: a class that another family has.
    """
    holder = class_of(type(model, (), {}))
    if holder is not None:
        raise ValueError(f"model: {model} belongs to the family {holder.NAME} already")
    facts = {"NAME": name, "MODELS": (model,), "BLOCKS": blocks, "NORM": norm}
    facts |= {"TIMESTEP": timestep, "CLEAN": clean, "LATENTS": latents}
    type(f"{name.replace(' ', '')}Blocks", (BlocksFamily,), facts)


register_blocks("AuraFlowTransformer2DModel", "AuraFlow", ("joint_transformer_blocks", TWO[1]), timestep=1.0)
register_blocks("BriaTransformer2DModel", "Bria 3.2", TWO)
register_blocks("ChromaTransformer2DModel", "Chroma", TWO, timestep=1.0)
register_blocks("CogView4Transformer2DModel", "CogView4")
register_blocks("CosmosTransformer3DModel", "Cosmos Predict 2", timestep=1.0)
register_blocks("EasyAnimateTransformer3DModel", "EasyAnimate", norm="norm_final")
register_blocks("HunyuanImageTransformer2DModel", "HunyuanImage 2.1", TWO)
register_blocks("HunyuanVideoTransformer3DModel", "HunyuanVideo", TWO)
register_blocks("LTXVideoTransformer3DModel", "LTX-Video")
register_blocks("Lumina2Transformer2DModel", "Lumina 2", ("layers",), timestep=0.0, clean=1.0)
register_blocks("MochiTransformer3DModel", "Mochi")
register_blocks("OvisImageTransformer2DModel", "Ovis Image", TWO, timestep=1.0)
register_blocks("PRXTransformer2DModel", "PRX", ("blocks",), "final_layer", timestep=1.0)
register_blocks("SanaTransformer2DModel", "Sana")
register_blocks("SanaVideoTransformer3DModel", "Sana Video")
