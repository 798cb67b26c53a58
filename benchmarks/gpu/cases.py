"""A model on the device with one call of it, and how its calls are timed: as often as the stage's time allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from _timing import interleaved, wall_clock
from torch import Tensor, nn

from .models import Model
from .part import Part

ROUNDS = 15
FEWEST_ROUNDS = 3

Call = Callable[[], Any]


@dataclass
class Case:
    """A model on the device with one call of it; `coarse` has what could be made of a coarse call.

    outputs: of the eager calls, to compare the compiled ones with.
    """

    model: Model
    transformer: nn.Module
    arguments: dict[str, Any]
    coarse: dict[str, Call] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)

    def fine(self) -> Tensor:
        return self.transformer(**self.arguments)[0]


def rounds(part: Part, once: float, share: float) -> int:
    """As many rounds of `once` seconds as fit into a share of the time that is left."""
    if part.tiny:
        return 2
    return max(FEWEST_ROUNDS, min(ROUNDS, int(part.left() * share / max(once, 1e-6))))


def timed(
    part: Part, candidates: dict[str, Any], share: float, clock=wall_clock, once: float | None = None
) -> dict[str, Any]:
    """once: seconds of all candidates, where they have just been run."""
    warm = once is not None or part.tiny
    if once is None:
        once = sum(clock(call) for call in candidates.values())
    count = rounds(part, once, share)
    return {"rounds": count, **interleaved(candidates, count, 0 if warm else 1, clock)}
