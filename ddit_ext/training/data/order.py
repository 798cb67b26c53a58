"""Which sample comes when: every step from one picture size, every sample as often as any other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import torch


class Order:
    """The samples of a run by their number, a function of the seed alone.

    Samples come in stretches of ``together`` of one size, so that the batches of a step have one shape in all
    processes, however the step is split into batches. Each size is a stream without end, pass after pass in an order
    of its own, and gives stretches in proportion to its number of samples, shuffled among those of the other sizes. So
    no sample is ever left over: a stretch that a pass does not fill goes on with the size's next one. A size with
    fewer samples than a stretch comes up more than once in it, but as often in all as the others.

    Args:
        counts: how many samples each size has.
        together: samples in a stretch.
        seed: of all orders.
    """

    def __init__(self, counts: Sequence[int], together: int, seed: int):
        self._counts, self._together, self._seed = list(counts), together, seed
        self._permutations: dict[int, tuple[int, torch.Tensor]] = {}  # by size: a pass and its order
        self._deck: tuple[int, list[tuple[int, int]]] = (-1, [])  # a pass, and the stretches that begin in it

    def __call__(self, index: int) -> tuple[int, int]:
        """The size of sample ``index`` of the run, and its place among those of this size."""
        number, within = divmod(index, self._together)
        size, stretch = self._stretch(number)
        through, position = divmod(stretch * self._together + within, self._counts[size])
        if size not in self._permutations or self._permutations[size][0] != through:
            self._permutations[size] = (through, self._shuffled(self._counts[size], through))
        return size, int(self._permutations[size][1][position])

    def _stretch(self, number: int) -> tuple[int, int]:
        """Stretch ``number`` of the run: its size, and how many of that size come before it."""
        latest = self._together * (number + 1)  # one sample in all would have been passed through so often
        through = bisect_right(range(latest + 1), number, key=self._before) - 1
        if self._deck[0] != through:
            following = [self._first(size, through) for size in range(len(self._counts))]
            ends = [self._first(size, through + 1) for size in range(len(self._counts))]
            sizes = [size for size, end in enumerate(ends) for _ in range(following[size], end)]
            deck = []
            for place in self._shuffled(len(sizes), through).tolist():
                deck.append((sizes[place], following[sizes[place]]))
                following[sizes[place]] += 1
            self._deck = (through, deck)
        return self._deck[1][number - self._before(through)]

    def _first(self, size: int, through: int) -> int:
        """How many stretches of a size begin before its pass ``through``."""
        return -(-through * self._counts[size] // self._together)

    def _before(self, through: int) -> int:
        """How many stretches of all sizes begin before the passes ``through``."""
        return sum(self._first(size, through) for size in range(len(self._counts)))

    def _shuffled(self, count: int, through: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + through)
        return torch.randperm(count, generator=generator)
