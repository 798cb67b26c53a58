"""The weights of one patch size and what a coarse step does with them; see docs/coarse-step.md."""

from .adapter import Adapter, AdapterError
from .scale_weights import CoarseStep, ScaleSpec, ScaleWeights

__all__ = ["Adapter", "AdapterError", "CoarseStep", "ScaleSpec", "ScaleWeights"]
