"""Putting other modules in the place of some of a model's, for a while.

`_modules` is written directly: no parameter is registered, renamed or copied, no hook is run, and the
originals (with whatever hooks, wrappers or offloading they carry) come back as the very same objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn


@contextmanager
def swapped(root: nn.Module, replacements: Mapping[str, nn.Module]) -> Iterator[None]:
    """Inside, `root` holds `replacements` (by dotted name); on leaving, however, the originals."""
    done: list[tuple[dict[str, nn.Module | None], str, nn.Module | None]] = []
    try:
        for name, module in replacements.items():
            parent, _, leaf = name.rpartition(".")
            modules = root.get_submodule(parent)._modules
            original = modules[leaf]
            done.append((modules, leaf, original))
            modules[leaf] = module
        yield
    finally:
        for modules, leaf, original in reversed(done):
            modules[leaf] = original
