"""What is particular to one model family: its grid, its ids, and which modules a coarse call swaps."""

from .flux import FluxSteering
from .grid import Grid

__all__ = ["FluxSteering", "Grid"]
