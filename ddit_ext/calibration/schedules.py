"""The sizes of computed steps that are coarse between full-size ends."""

from __future__ import annotations

from collections.abc import Sequence

BOTH_ENDS = 5 / 7
"""The share of a run's fine steps that come before the coarse ones where it is fine at both ends: the closest order at
equal cost in docs/studies/which-rule.md."""


def computed_sizes(computed: int, coarse: Sequence[Sequence[int]]) -> list[int]:
    """The size of each computed step: at 1, at each size of `coarse` ([[scale, steps], …]), and at 1 again: the first
    and the last of them at least.
    """
    fine = computed - sum(count for _, count in coarse)
    ahead = max(1, min(round(BOTH_ENDS * fine), fine - 1))
    return [1] * ahead + [scale for scale, count in coarse for _ in range(count)] + [1] * (fine - ahead)
