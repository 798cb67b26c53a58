"""`patch(target_speedup=…)`: what policies have in common that keep a run's time by the clock."""

from __future__ import annotations

import statistics
from abc import abstractmethod
from collections import deque
from collections.abc import Hashable, Mapping, Sequence

from .. import policies

NEWEST = 32
"""So many times of each size count: about those of this run and the last, so that a machine that has changed is noticed."""

ENOUGH = 3
"""So many times of a size decide. Before, what was expected is one of them, so that a single slow step counts for nothing."""

NOTHING = 0.95
"""A size that takes this share of a step at p, or more, isn't taken: it would cost quality and save nothing."""


class Timed(policies.Policy):
    """Knows how long steps take, from this run and from those before it of the same key.

    target: times the speed of a run at p, of the whole run.
    """

    def __init__(self, scales: Sequence[int], target: float, protect: tuple[int, int]) -> None:
        self.scales = tuple(scales)
        self.target = target
        self.protect_first, self.protect_last = protect
        self.remark: str | None = None  # what a run's begin has to say
        self._key: Hashable = None
        self._seconds: dict[int, deque[float]] = {}  # by scale, the newest
        self._warm: set[int] = set()  # sizes that have been run

    def estimate(self, costs: Mapping[int, float], key: Hashable) -> None:
        """Before a run: costs by arithmetic, in steps at p; key: what has to be the same for measured times to hold."""
        if key != self._key:
            self._key, self._seconds, self._warm = key, {}, set()

    def begin(self, total_steps: int) -> None:
        """A run of so many steps begins; ValueError where that is not known."""
        if not total_steps:
            raise ValueError(
                f"target_speedup={self.target:g}: the length of this run is not known (no sampler of the pipeline "
                "takes part in it), so there is no time to keep to; let the loop step by pipe.scheduler"
            )

    def stepped(self, scale: int, seconds: float) -> None:
        """A step at `scale` has taken so long.

        The very first step doesn't count, nor the first of another size than p, which makes its weights ready.
        """
        counts = scale in self._warm or (scale == 1 and self._warm)
        self._warm.add(scale)
        if counts:
            self._seconds.setdefault(scale, deque(maxlen=NEWEST)).append(seconds)
            self._revise()

    @abstractmethod
    def _revise(self) -> None:
        """A time was taken: what is left of the run may have to change."""

    def _cost(self, scale: int, guess: float) -> float:
        """Of a step at `scale`, in steps at p: the median of its times; `guess` until both were timed."""
        fine = self._fine()
        times = [seconds / fine for seconds in self._seconds.get(scale, ())] if fine > 0 else []
        if not times:
            return guess
        return statistics.median(times) if len(times) >= ENOUGH else statistics.median_low([*times, guess])

    def _saves_nothing(self, scale: int) -> bool:
        """Whether enough steps at a size other than p show that."""
        times = self._seconds.get(scale, ())
        return scale != 1 and len(times) >= ENOUGH and statistics.median(times) >= NOTHING * self._fine() > 0

    def _try_again(self) -> None:
        """At a run's begin forget the times of sizes that saved nothing: without new ones they never would."""
        for scale in [scale for scale in self._seconds if self._saves_nothing(scale)]:
            del self._seconds[scale]

    def _fine(self) -> float:
        """Seconds of a step at p; 0.0 without one."""
        return statistics.median(self._seconds.get(1, [0.0]))

    def _protected(self, total: int) -> int:
        return min(total, self.protect_first + self.protect_last)
