"""Steps that are skipped: what the blocks would add follows from what they added at computed steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..modules import blocks
from ..modules.blocks import AfterBlocks
from ..modules.swap import Changes
from .denoisers import Part


class BlockReuse:
    """For one run: by call of a step (guidance makes two), what the blocks added at the last computed steps.

    Their `scale` is the one of the skipped steps after them: tokens are of the same number.

    forecast: 0 adds the last of them again; 1 adds where the line through the last two of one size has come to, over
    the noise level; a share between follows so much of the line's slope.

    Of several ranks that share the tokens each keeps what was added to its own. What is kept, and with it what can be
    skipped, follows from the decisions so far, which the ranks have in common.
    """

    def __init__(self, forecast: float = 0.0) -> None:
        self.forecast = forecast
        self.scale = 1
        self.level = 0.0
        """The noise level of the step under way; to be set at each."""
        self._part: str | None = None
        # Of computed steps, the newest first: by call the noise level and what the blocks added.
        self._steps: deque[dict[int, tuple[float, Tensor]]] = deque()

    def ready(self, part: Part) -> bool:
        """Whether the last computed step was one of this transformer, and left something."""
        return part.name == self._part and bool(self._steps) and bool(self._steps[0])

    def has(self, part: Part, call: int) -> bool:
        """Whether so did its call number `call`."""
        return self.ready(part) and call in self._steps[0]

    def begin_step(self, part: Part, scale: int) -> None:
        """A step that is computed begins: what it makes useless of those before is freed."""
        if (part.name, scale) != (self._part, self.scale):
            self.clear()
        while len(self._steps) > (1 if self.forecast else 0):
            self._steps.pop()
        self._part, self.scale = part.name, scale
        self._steps.appendleft({})

    def clear(self) -> None:
        """Free all that is kept."""
        self._part = None
        self._steps.clear()

    def enter(self, changes: Changes, part: Part, number: int, skipped: bool) -> AfterBlocks | None:
        """Before call `number` of the step under way: its blocks are left out, or what is returned sees them."""
        transformer, names, own = (
            part.family.transformer,
            (part.family.BLOCKS, part.family.NORM),
            part.family.own_tokens,
        )
        if skipped:
            changes.swap(transformer, blocks.left_out(transformer, *names, self._forecasted(number), own))
            return None
        after, replacements = blocks.seen(transformer, *names, own)
        changes.swap(transformer, replacements)
        return after

    def keep(self, number: int, after: AfterBlocks) -> None:
        """After call `number`, where it was computed: what its blocks added."""
        if after.added is not None:
            self._steps[0][number] = (self.level, after.added)

    def _forecasted(self, call: int) -> Tensor:
        """What the blocks would add at the level of the step under way."""
        (newest, last), *before = [step[call] for step in self._steps if call in step]
        # A sampler may call a model twice at one level, through which there is no line.
        before = [(level, added) for level, added in before if level != newest]
        if not before:
            return last
        level, older = before[0]
        reach = self.forecast * (self.level - newest) / (newest - level)
        return torch.lerp(older.float(), last.float(), 1 + reach).to(last.dtype)


class InputChange:
    """How much what goes into a transformer's first block has changed from one step to the next."""

    def __init__(self) -> None:
        self._part: str | None = None
        self._last: Tensor | None = None

    @torch.no_grad()
    def step(self, part: Part, arguments: dict[str, Any]) -> list[float] | None:
        """At each step once: mean |x - last| / mean |last| of each sample; None where the last was not of this model.

        On a GPU this waits for the result. ValueError where the input can't be told before the call.
        """
        last, self._last = (self._last if part.name == self._part else None), None
        now = part.family.first_input(arguments)
        self._part, self._last = part.name, now
        if last is None or last.shape != now.shape:
            return None
        before, after = last.float().flatten(1), now.float().flatten(1)
        return ((after - before).abs().mean(1) / before.abs().mean(1)).tolist()

    def scores(
        self, part: Part, arguments: dict[str, Any], reuse: BlockReuse | None, remark: Callable[[str], None]
    ) -> tuple[list[list[float]] | None, list[bool]]:
        """The one score of each sample, and that it counts; none where a skipped step had nothing to use again."""
        try:
            changes = self.step(part, arguments)
        except ValueError as error:
            remark(f"no signal: {error}")
            return None, []
        if changes is None or (reuse is not None and not reuse.ready(part)):
            return None, []
        return [[change] for change in changes], [True] * len(changes)

    def clear(self) -> None:
        """Free what is kept."""
        self._part = self._last = None
