"""Training data: pictures with captions or the base's own runs, turned into latents once and kept on disk."""

from .cache import CachedData, DataError

__all__ = ["CachedData", "DataError"]
