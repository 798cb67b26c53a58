"""What is particular to one model family: its grid, its positions, and which modules a coarse call swaps."""

from torch import nn

from .base import Family
from .flux import FluxFamily
from .grid import Grid
from .wan import WanFamily

FAMILIES: tuple[type[Family], ...] = (FluxFamily, WanFamily)
"""One class a family; a further family is added here and in `coarse/base_weights.py`."""

__all__ = ["FAMILIES", "Family", "FluxFamily", "Grid", "WanFamily", "family_for"]


def family_for(transformer: nn.Module) -> Family:
    """What the family of the transformer knows of it; TypeError for a class that no family has."""
    for family in FAMILIES:
        if isinstance(transformer, family.MODELS):
            return family(transformer)
    known = ", ".join(model.__name__ for family in FAMILIES for model in family.MODELS)
    raise TypeError(f"transformer must be one of {known}, got {type(transformer).__name__}")
