"""patch() and what stands behind it: the hook on the transformer, the sampler watch, schedules, reports."""

from ..reports.report import Report
from .patch import Handle, patch, unpatch

__all__ = ["Handle", "Report", "patch", "unpatch"]
