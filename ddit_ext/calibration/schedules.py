"""What a choice of known sizes is to `patch`: a stretch of steps after the other, or computed steps spread over a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..policies import SKIP, growing_gaps

BOTH_ENDS = 5 / 7
"""The share of a run's fine steps that come before the coarse ones where it is fine at both ends: the closest order at
equal cost in docs/studies/which-rule.md."""


class Stretches:
    """Policy: stretches of `steps` steps [[scale, count], …]; every step after them is at 1.

    A run of another length than `steps` has as large a share of each, and ends at 1 where the other one does: img2img
    does fewer steps than it is asked for.
    """

    needs_signal = False

    def __init__(self, stretches: Sequence[Sequence[int]], steps: int) -> None:
        self._stretches, self._steps = [(scale, count) for scale, count in stretches], steps
        self.begin(steps)

    def begin(self, total_steps: int) -> None:
        """A run of so many steps begins; 0: as many as it was made for."""
        total = total_steps or self._steps
        most = total - (sum(count for _, count in self._stretches) < self._steps)
        self._sizes: list[int] = []
        ahead = 0
        for scale, count in self._stretches:
            ahead += count
            end = min(
                round(ahead * total / self._steps), most
            )  # rounded where it ends, so that errors don't add up
            self._sizes += [scale] * (end - len(self._sizes))

    def decide(self, step: int, scores: Any) -> int:
        """The size of a step."""
        return self._sizes[step] if step < len(self._sizes) else 1

    def __repr__(self) -> str:
        return f"Stretches({self._sizes})"


class Spread:
    """Policy: computed steps spread over a run, the others skipped; see :func:`spread`.

    A run of another length than `steps` has as large a share of each: img2img does fewer steps than it is asked for.
    """

    needs_signal = False
    skips = True

    def __init__(
        self, steps: int, computed: int, growth: float, coarse: Sequence[Sequence[int]] = ()
    ) -> None:
        self.scales = tuple(sorted({1, *(scale for scale, _ in coarse)}))
        self._made_for = steps, computed, growth, [(scale, count) for scale, count in coarse]
        self._sizes = spread(*self._made_for)

    def begin(self, total_steps: int) -> None:
        """A run of so many steps begins; 0: as many as it was made for."""
        steps, computed, growth, coarse = self._made_for
        if total_steps and total_steps != steps:
            share = total_steps / steps
            fine = max(2, round((computed - sum(count for _, count in coarse)) * share))
            coarse = [(scale, int(count * share)) for scale, count in coarse]
            fine = min(fine, total_steps - sum(count for _, count in coarse))
            if fine < 2:  # too short to be fine at both ends
                coarse, fine = [], total_steps
            steps, computed = total_steps, fine + sum(count for _, count in coarse)
        self._sizes = spread(steps, computed, growth, coarse)

    def decide(self, step: int, scores: Any) -> int:
        """The size of a step; a run that goes on after its last is computed at 1."""
        return self._sizes[step] if step < len(self._sizes) else 1

    def __repr__(self) -> str:
        return f"Spread({self._sizes})"


def spread(steps: int, computed: int, growth: float, coarse: Sequence[Sequence[int]] = ()) -> list[int]:
    """The size of each of `steps` steps, SKIP for one that is not computed.

    So many are computed, by `policies.growing_gaps`. In their order they are at 1, at each size of `coarse` ([[scale,
    steps], …]), and at 1 again: the first and the last of them at least.
    """
    fine = computed - sum(count for _, count in coarse)
    ahead = max(1, min(round(BOTH_ENDS * fine), fine - 1))
    sizes = [1] * ahead + [scale for scale, count in coarse for _ in range(count)] + [1] * (fine - ahead)
    left = iter(sizes)
    return [next(left) if taken else SKIP for taken in growing_gaps(steps, computed, growth)]


def sizes_of(schedule: Any, total: int) -> list[int]:
    """The size of each of a run's `total` steps by a policy that looks at nothing else; SKIP: not computed."""
    schedule.begin(total)
    return [schedule.decide(step, None) for step in range(total)]
