"""How much the model's input has changed since the last step: what TeaCache's rule looks at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .denoisers import Part


class InputChange:
    """Keeps what went into a transformer's first block at the last step."""

    def __init__(self) -> None:
        self._part: str | None = None
        self._last: Tensor | None = None

    @torch.no_grad()
    def step(self, part: Part, arguments: dict[str, Any]) -> list[float] | None:
        """mean |x - last| / mean |last| of each sample; None where the last input was not of this model.

        Asked once at each step. On a GPU this waits for the result.

        Raises:
            ValueError: an input that can't be told before the call.
        """
        last, self._last = (self._last if part.name == self._part else None), None
        now = part.family.first_input(arguments)
        self._part, self._last = part.name, now.clone()  # a compiled layer may write over what it gave
        if last is None or last.shape != now.shape:
            return None
        before, after = last.float().flatten(1), now.float().flatten(1)
        return ((after - before).abs().mean(1) / before.abs().mean(1)).tolist()

    def clear(self) -> None:
        """Free what is kept."""
        self._part = self._last = None
