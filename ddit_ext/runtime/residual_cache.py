"""Steps that are skipped: the blocks' residual of the last computed step is added again."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from ..modules import blocks
from ..modules.blocks import AfterBlocks
from ..modules.swap import Changes
from .denoisers import Part


class ResidualCache:
    """For one run: what the blocks added at the last computed step, by call of the step (guidance makes two).

    `scale` is the one of that step, and so of the skipped steps after it: tokens are of the same number.

    With context parallelism, each rank caches the residual of its own tokens. What can be skipped follows from the
    decisions so far, which the ranks have in common.
    """

    def __init__(self) -> None:
        self.scale = 1
        self._part: str | None = None
        self._residuals: dict[int, Tensor] = {}

    def ready(self, part: Part) -> bool:
        """Whether the last computed step was one of this transformer, and left something."""
        return part.name == self._part and bool(self._residuals)

    def has(self, part: Part, call: int, rows: int) -> bool:
        """Whether its call number `call` did, for so many rows: guidance may end within a run."""
        return self.ready(part) and call in self._residuals and self._residuals[call].shape[0] == rows

    def begin_step(self, part: Part, scale: int) -> None:
        """A step that is computed begins: what earlier ones left is freed."""
        self._part, self.scale = part.name, scale
        self._residuals.clear()

    def clear(self) -> None:
        """Free all that is kept."""
        self._part = None
        self._residuals.clear()

    def enter(
        self, changes: Changes, part: Part, number: int, skipped: bool, unused: Collection[int] = ()
    ) -> AfterBlocks | None:
        """Before call `number` of the step under way: its blocks are left out, or what is returned sees them.

        unused: blocks that the call itself does not run, as `blocks.seen` has them.
        """
        family = part.family
        transformer, names, own = family.transformer, (family.BLOCKS, family.NORM), family.own_tokens
        if skipped:
            changes.swap(transformer, blocks.left_out(transformer, *names, self._residuals[number], own))
            return None
        after, replacements = blocks.seen(transformer, *names, own, unused)
        changes.swap(transformer, replacements)
        return after

    def keep(self, number: int, after: AfterBlocks, copied: bool) -> None:
        """After call `number`, where it was computed: the residual of its blocks; copied: who made it may write over it."""
        if after.added is not None:
            self._residuals[number] = after.added.clone() if copied else after.added
