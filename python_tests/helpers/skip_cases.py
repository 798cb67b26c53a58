"""Runs in which steps are skipped or samples differ: policies that say so, and which blocks were called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ddit_ext import policies

STEPS = 6
FAMILIES = ["flux", "wan"]
SCALES = (1, 2, 4)


def blocks_of(transformer: nn.Module) -> list[nn.Module]:
    """All blocks of a FLUX or Wan transformer."""
    lists = ("transformer_blocks", "single_transformer_blocks", "blocks", "vace_blocks")
    return [block for name in lists for block in getattr(transformer, name, ())]


def counted(transformer: nn.Module) -> list[int]:
    """The number of calls of each block from here on, as it stands whenever it is looked at."""
    blocks = blocks_of(transformer)
    counts = [0] * len(blocks)

    def count(place):
        def hook(*_):
            counts[place] += 1

        return hook

    for place, block in enumerate(blocks):
        block.register_forward_hook(count(place))
    return counts


def called(
    pipe: Any, watched: Callable[[nn.Module], nn.Module] = lambda transformer: transformer
) -> list[str]:
    """Names of the transformers whose module `watched` is called from here on, as they stand whenever it is looked at."""
    calls: list[str] = []
    for name in ("transformer", "transformer_2"):
        if getattr(pipe, name, None) is not None:
            watched(getattr(pipe, name)).register_forward_hook(lambda *_, name=name: calls.append(name))
    return calls


def sizes_of(handle: Any) -> list[int]:
    """The size of each step of the last run; 0 where it was skipped."""
    return [step["scale"] for step in handle.report().to_dict()["steps"]]


class Given(policies.Policy):
    """Sizes as they are given; 0 skips."""

    needs_signal = False
    skips = True

    def __init__(self, sizes):
        self.sizes = sizes

    def begin(self, total_steps):
        pass

    def decide(self, step, scores):
        return self.sizes[step]


class ByScore(policies.Policy):
    """A size from the digits of the score: samples differ, and change often."""

    def begin(self, total_steps):
        pass

    def decide(self, step, scores):
        return SCALES[int(300 * scores[0][1]) % 3] if scores else 1
