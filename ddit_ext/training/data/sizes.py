"""The sizes that pictures are cut to, and which one a picture goes to."""

from __future__ import annotations

import math
from collections.abc import Sequence

Size = tuple[int, int]
"""Height and width in pixels."""

STEP = 64  # pixels; a whole number of tokens at scales 1, 2 and 4 of VAEs with 8 pixels a latent pixel
RATIOS = ((1, 1), (4, 3), (3, 2), (16, 9), (2, 1))


def name_of(size: Size) -> str:
    """As errors, logs and the cache call it: "768x1360", height first."""
    return f"{size[0]}x{size[1]}"


def sizes_like(height: int, width: int) -> list[Size]:
    """``height``×``width``, then the common aspect ratios, lying and standing, with about as many pixels and sides that
    are multiples of :data:`STEP`.
    """
    found = [(height, width)]
    for long, short in RATIOS:
        side = math.sqrt(height * width / (long * short))
        sides = tuple(max(STEP, round(side * part / STEP) * STEP) for part in (short, long))
        found += [sides, sides[::-1]]
    return list(dict.fromkeys(found))


def nearest(sizes: Sequence[Size], height: int, width: int) -> Size:
    """The size whose aspect ratio, by its logarithm, is nearest to that of a picture; among several of the same ratio
    the largest that the picture fills without being enlarged, or else the smallest.
    """

    def badness(size: Size) -> tuple[float, bool, int]:
        enlarged = size[0] > height or size[1] > width
        area = size[0] * size[1]
        ratio = abs(math.log(size[1] / size[0]) - math.log(width / height))
        return ratio, enlarged, area if enlarged else -area

    return min(sizes, key=badness)


def check_sizes(sizes: Sequence[Size], side: int) -> None:
    """ValueError, naming the first of ``sizes`` with a side that is no multiple of ``side`` pixels.

    Args:
        side: of a token of the base: pixels a latent pixel of its VAE, times its own patch size.
    """
    for index, size in enumerate(sizes):
        for name, length in zip(("height", "width"), size, strict=True):
            if length % side:
                near = max(side, round(length / side) * side)
                where = f"data.{name}" if not index else f"data.buckets: {name_of(size)}: {name}"
                raise ValueError(
                    f"{where} must be a multiple of {side}, the pixels of a token of this model (its VAE and its patch "
                    f"size), got {length}; the nearest is {near}"
                )
