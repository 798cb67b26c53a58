"""Distillation: the base model teaches its own coarse patch sizes."""

from ..coarse.adapter import Adapter, AdapterError
from .checkpoint import SaveFailed
from .config import DistillConfig
from .distill import DistillResult, distill
from .evaluate import evaluate_coarse_error
from .interrupt import Interrupted
from .trainer import TrainingDiverged

__all__ = [
    "Adapter",
    "AdapterError",
    "DistillConfig",
    "DistillResult",
    "Interrupted",
    "SaveFailed",
    "TrainingDiverged",
    "distill",
    "evaluate_coarse_error",
]
