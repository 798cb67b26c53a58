"""patch() and what stands behind it: the hook on the transformer, the sampler watch, schedules, reports."""

from .patch import Handle, patch, unpatch
from .report import Report

__all__ = ["Handle", "Report", "patch", "unpatch"]
