"""`patch(target_speedup=…, forecast=…)`: as many steps are computed as the clock allows, the others are forecast."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..policies import SKIP
from .timed import NOTHING, Timed

GROWTH = 1.75
"""Of the gaps between computed steps: the closest in docs/forecast.md."""

IDLE = 0.02
"""Cost of a skipped step, in steps at p, until one was timed: it still embeds, projects out and takes a sampler's step."""

FEWEST = 2
"""So many steps are computed at least: a line needs two."""


class TimedForecast(Timed):
    """Computed steps at p in growing gaps, so many that the run ends in time; all others are skipped.

    At each computed step what is left of the time is counted anew, by step times of this run and the last, and so is what
    it affords.
    """

    needs_signal = False
    skips = True

    def __init__(self, target: float, protect: tuple[int, int]) -> None:
        super().__init__((1,), target, protect)
        self._total = 0
        self._taken: dict[int, int] = {}  # size of each step so far
        self._next = 0  # the step that is computed next

    def begin(self, total_steps: int) -> None:
        """A run of so many steps begins.

        ValueError: a number of steps that isn't known, or a target that can't be reached if a skipped step takes IDLE.
        """
        super().begin(total_steps)
        possible = self._possible(total_steps, IDLE)
        if self.target > possible:
            raise ValueError(
                f"target_speedup={self.target:g} can't be reached: at most {possible:.2f} can in {total_steps} steps "
                f"with {self._fewest(total_steps)} computed, and the others forecast at {IDLE:g} of the time of a "
                "computed one"
            )
        idle = self._idle()
        possible = max(1.0, self._possible(total_steps, idle))
        self.remark = None
        if self.target > possible:
            self.remark = (
                f"target_speedup={self.target:g} can't be reached: by the times of the last run a step that is "
                f"forecast takes {idle:.2f} of a computed one, so that at most {possible:.2f} can"
            )
        self._try_again()
        self._total, self._taken, self._next = total_steps, {}, 0

    def decide(self, step: int, scores: Sequence[Sequence[float]] | None) -> int:
        """1 for a step that is computed, SKIP for one that is not."""
        last = step >= self._total - self.protect_last
        if step >= self._next or last or step < self.protect_first or self._saves_nothing(SKIP):
            self._taken[step] = 1
            self._next = self._after(step)
        else:
            self._taken[step] = SKIP
        return self._taken[step]

    def stepped(self, scale: int, seconds: float) -> None:
        """A step has taken so long; of a schedule's skipped step that was computed after all `scale` is 1."""
        if self._taken:
            self._taken[max(self._taken)] = scale
        super().stepped(scale, seconds)

    def _after(self, step: int) -> int:
        """The step that is computed next, if the rest of the time is spent in gaps that go on growing.

        The k-th of n computed steps of a whole run is at total · (k / n)^growth; from here on, so are those that are
        left over what is left before the protected last ones.
        """
        end = self._total - self.protect_last
        rest = end - step - 1
        count = self._affordable(rest)
        if count <= 0:
            return end
        here = (step / end) ** (1 / GROWTH)
        following = here + (1 - here) / (count + 1)
        place = math.floor(end * following**GROWTH + 0.5)
        return max(step + 1, min(place, end - count))  # those to come need a step each

    def _affordable(self, rest: int) -> int:
        """How many of the `rest` steps before the protected last ones can be computed."""
        if self._saves_nothing(SKIP):
            return rest
        idle = min(self._idle(), NOTHING)
        computed = sum(size != SKIP for size in self._taken.values())
        skipped = len(self._taken) - computed
        left = self._total / self.target - computed - skipped * idle - self.protect_last
        count = math.floor((left - rest * idle) / (1 - idle) + 1e-9)
        return max(0, min(max(count, FEWEST - computed - self.protect_last), rest))

    def _idle(self) -> float:
        """Of a skipped step, in steps at p."""
        return self._cost(SKIP, IDLE)

    def _revise(self) -> None:
        """Nothing: each step counts anew."""

    def _fewest(self, total: int) -> int:
        return min(total, max(FEWEST, self._protected(total)))

    def _possible(self, total: int, idle: float) -> float:
        fewest = self._fewest(total)
        return total / (fewest + (total - fewest) * idle)

    def __repr__(self) -> str:
        return f"TimedForecast(target_speedup={self.target:g}, a skipped step costs {self._idle():.2g})"
