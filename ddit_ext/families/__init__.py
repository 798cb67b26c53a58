"""One file a model family: what is particular to its transformers, found by the names of their classes."""

from dataclasses import replace
from typing import Any

from .base import Family
from .contract import BlocksFamily, register_blocks
from .encoder import Encoder
from .flux import FluxFamily
from .flux2 import Flux2Family
from .grid import Grid
from .hunyuan_video15 import HunyuanVideo15Family
from .model import WITHOUT_SUPPORT, ModelFamily, class_of, family_for, known, supported
from .published import Published
from .qwen_image import QwenImageFamily
from .sd3 import SD3Family
from .wan import WanFamily
from .z_image import ZImageFamily

__all__ = [
    "WITHOUT_SUPPORT",
    "BlocksFamily",
    "Family",
    "Flux2Family",
    "FluxFamily",
    "Grid",
    "HunyuanVideo15Family",
    "ModelFamily",
    "QwenImageFamily",
    "SD3Family",
    "WanFamily",
    "ZImageFamily",
    "class_of",
    "encoder_for",
    "family_for",
    "published",
    "register_blocks",
    "supported",
]


def published() -> dict[str, Published]:
    """The models on the hub whose configuration or licence is known, by their names there."""
    return {
        name: replace(model, transformer=family.MODELS[0])
        for family in known(Family)
        for name, model in vars(family).get("PUBLISHED", {}).items()
    }


def encoder_for(pipe: Any, max_sequence_length: int) -> Encoder:
    """The encoder of the pipeline's family; ValueError for a family that the trainer has no data for."""
    family = class_of(pipe.transformer)
    if family is None or not hasattr(family, "ENCODER"):
        trained = ", ".join(kind.NAME for kind in known(Family) if hasattr(kind, "ENCODER"))
        raise ValueError(
            f"training data: expected a model of the families {trained}, got a {type(pipe.transformer).__name__}"
        )
    return family.ENCODER(pipe, max_sequence_length, family(pipe.transformer).patch_size)
