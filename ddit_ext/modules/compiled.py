"""Modules that ``torch.compile`` wraps."""

from __future__ import annotations

from typing import TypeVar

Held = TypeVar("Held")


def unwrap(module: Held) -> Held:
    """The module itself, out of a ``torch.compile`` wrapper; None and others as they are."""
    return getattr(module, "_orig_mod", module)


def plain_name(name: str) -> str:
    """The dotted name that a module has without the wrappers on the way to it."""
    return name.replace("_orig_mod.", "")
