"""Step times of a patched pipeline: of the run under way and of those before it."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Hashable

NEWEST = 32
"""So many times of each scale count: about two runs, so that a machine that has changed is noticed."""

ENOUGH = 3
"""So many times of a scale decide. With fewer, the guess is one of them, so that one slow step counts for nothing."""

NOTHING = 0.95
"""A scale that takes this share of a full-size step, or more, saves nothing."""


class StepTimes:
    """Seconds of steps by scale, the newest ones."""

    def __init__(self) -> None:
        self._key: Hashable = None
        self._seconds: dict[int, deque[float]] = {}
        self._warm: set[int] = set()

    def begin_run(self, key: Hashable) -> None:
        """Forget everything unless `key`, such as the latents' shape, is that of the run before."""
        if key != self._key:
            self._key, self._seconds, self._warm = key, {}, set()

    def observe(self, scale: int, seconds: float) -> None:
        """A step has taken so long. The first step of all, and the first of a coarse scale, only warm up."""
        counts = scale in self._warm or (scale == 1 and self._warm)
        self._warm.add(scale)
        if counts:
            self._seconds.setdefault(scale, deque(maxlen=NEWEST)).append(seconds)

    def cost(self, scale: int, guess: float) -> float:
        """A step at `scale` in full-size steps: the median of its times; `guess` until both were timed."""
        full = self._full()
        times = [seconds / full for seconds in self._seconds.get(scale, ())] if full > 0 else []
        if not times:
            return guess
        return statistics.median(times) if len(times) >= ENOUGH else statistics.median_low([*times, guess])

    def saves_nothing(self, scale: int) -> bool:
        """Whether enough steps at a coarse scale show that."""
        times = self._seconds.get(scale, ())
        return scale != 1 and len(times) >= ENOUGH and statistics.median(times) >= NOTHING * self._full() > 0

    def try_again(self) -> None:
        """Forget the times of scales that saved nothing: without new ones they never would."""
        for scale in [scale for scale in self._seconds if self.saves_nothing(scale)]:
            del self._seconds[scale]

    def _full(self) -> float:
        """Seconds of a full-size step; 0.0 without one."""
        return statistics.median(self._seconds.get(1, [0.0]))
