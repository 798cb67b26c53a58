"""What is particular to one model family: its grid, its positions, and which modules a coarse call swaps."""

from torch import nn

from .flux import FluxSteering
from .grid import Grid
from .steering import Steering
from .wan import WanSteering

STEERINGS: tuple[type[Steering], ...] = (FluxSteering, WanSteering)
"""One class a family; a further family is added here and in `coarse/base_weights.py`."""

__all__ = ["STEERINGS", "FluxSteering", "Grid", "Steering", "WanSteering", "steering_for"]


def steering_for(transformer: nn.Module) -> Steering:
    """The steering of the transformer's family; TypeError for a class that no family has."""
    for steering in STEERINGS:
        if isinstance(transformer, steering.MODELS):
            return steering(transformer)
    known = ", ".join(model.__name__ for steering in STEERINGS for model in steering.MODELS)
    raise TypeError(f"transformer must be one of {known}, got {type(transformer).__name__}")
