"""Modules that ``torch.compile`` wraps."""

from __future__ import annotations

from typing import TypeVar

Held = TypeVar("Held")


def unwrap(module: Held) -> Held:
    """The module itself, out of a ``torch.compile`` wrapper; None and others as they are."""
    return getattr(module, "_orig_mod", module)
