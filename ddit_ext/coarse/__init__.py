"""The weights of one patch size and what a coarse step does with them; see docs/design/coarse-step.md."""

from .adapter import Adapter, AdapterError
from .coarse_step import CoarseStep
from .scale_spec import ScaleSpec
from .scale_weights import ScaleWeights

__all__ = ["Adapter", "AdapterError", "CoarseStep", "ScaleSpec", "ScaleWeights"]
