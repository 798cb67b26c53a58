"""One file a model family: what is particular to its transformers, found by the names of their classes."""

from typing import Any

from .base import Family
from .encoder import Encoder
from .flux import FluxFamily
from .grid import Grid
from .model import WITHOUT_SUPPORT, ModelFamily, class_of, family_for, known, supported
from .published import Published
from .wan import WanFamily

__all__ = [
    "WITHOUT_SUPPORT",
    "Family",
    "FluxFamily",
    "Grid",
    "ModelFamily",
    "WanFamily",
    "class_of",
    "encoder_for",
    "family_for",
    "published",
    "supported",
]


def published() -> dict[str, Published]:
    """The models on the hub whose configuration or licence is known, by their names there."""
    return {name: model for family in known(Family) for name, model in family.PUBLISHED.items()}


def encoder_for(pipe: Any, max_sequence_length: int) -> Encoder:
    """The encoder of the pipeline's family; ValueError for a family that the trainer has no data for."""
    family = class_of(pipe.transformer)
    if family is None or not hasattr(family, "ENCODER"):
        trained = ", ".join(kind.NAME for kind in known(Family) if hasattr(kind, "ENCODER"))
        raise ValueError(
            f"training data: expected a model of the families {trained}, got a {type(pipe.transformer).__name__}"
        )
    return family.ENCODER(pipe, max_sequence_length, family(pipe.transformer).patch_size)
