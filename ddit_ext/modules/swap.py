"""Changes to a model that last for one call: other modules in the place of its own, and whatever else lies in a dictionary.

`_modules` is written directly: no parameter is registered, renamed or copied, no hook is run, and the originals (with
whatever hooks, wrappers or offloading they carry) come back as the very same objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

ABSENT = object()
"""What an entry was that there was none of."""


class Changes:
    """Entries of dictionaries that are other than they were, until `undo`.

    Each entry is noted before it is changed, and forgotten after it is back. So `undo` may be interrupted at any point, and
    called again it does the rest.
    """

    def __init__(self) -> None:
        self._noted: list[tuple[dict[str, Any], str, Any]] = []

    def put(self, where: dict[str, Any], key: str, value: Any) -> None:
        """Change one entry, such as an attribute in `vars(object)`; one that there was none of goes again."""
        self._noted.append((where, key, where.get(key, ABSENT)))
        where[key] = value

    def swap(self, root: nn.Module, replacements: Mapping[str, nn.Module]) -> None:
        """Put `replacements` (by dotted name) where `root` holds its own modules."""
        for name, module in replacements.items():
            parent, _, leaf = name.rpartition(".")
            self.put(root.get_submodule(parent)._modules, leaf, module)

    def undo(self) -> None:
        """Everything as it was; again is no error."""
        noted = self._noted
        while noted:
            where, key, was = noted[-1]
            if was is ABSENT:
                where.pop(key, None)
            else:
                where[key] = was
            noted.pop()


@contextmanager
def swapped(root: nn.Module, replacements: Mapping[str, nn.Module]) -> Iterator[None]:
    """Inside, `root` holds `replacements` (by dotted name); on leaving, however, the originals."""
    changes = Changes()
    try:
        changes.swap(root, replacements)
        yield
    finally:
        changes.undo()
