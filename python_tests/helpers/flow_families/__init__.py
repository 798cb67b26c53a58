"""Tiny random pipelines of the flow-matching families of diffusers: ``FAMILIES`` is what tests run over."""

from .family import Family
from .images import IMAGES
from .videos import VIDEOS

FAMILIES = [*IMAGES, *VIDEOS]

__all__ = ["FAMILIES", "Family"]
