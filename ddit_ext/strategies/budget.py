"""`Budget`: a speed is given, the scores say where the full-size steps go."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._core import BudgetPolicy
from . import checks
from .base import DEFAULT_QUANTILE, DEFAULT_SCALES, Native, Policy, Scores, Strategy
from .clock import StepTimes

FALLING = 0.99
"""A measured cost is at most this share of the next finer scale's: a budget has no use for a scale that saves nothing."""


@dataclass(frozen=True, repr=False)
class Budget(Strategy):
    """Larger patches for `speedup` times the speed; each step's threshold follows from the time that is left.

    What a step costs is guessed from its arithmetic and corrected by this run's and earlier runs' own times, so
    runs of the same seed may differ. With `costs` it is fixed.

    Args:
        speedup: times the speed of a run with every step at scale 1; at least 1.
        scales, quantile: as in `Threshold`; one scale above 1 at least.
        protect: as in `Threshold`. The last step always stays at scale 1.
        costs: a step at each scale above 1, in full-size steps, falling; None: by the clock.
        reference: [step][scale], scores of a run like those to come; (): the scores seen so far stand for them.

    Raises:
        TypeError, ValueError: a bad value, by name. At a run's begin ValueError for a speed that can't be reached.
    """

    speedup: float
    scales: Sequence[int] = DEFAULT_SCALES
    quantile: float = DEFAULT_QUANTILE
    protect: tuple[int, int] = (0, 1)
    costs: Sequence[float] | None = None
    reference: Sequence[Sequence[float]] = ()

    source = "latents"
    holds = True

    def __post_init__(self) -> None:
        scales = checks.scales("scales", self.scales)
        if len(scales) < 2:
            raise ValueError(f"scales: a budget needs a scale above 1, got {scales}")
        first, last = checks.protected("protect", self.protect)
        self._set(
            speedup=checks.number("speedup", self.speedup, 1.0, finite=True),
            scales=scales,
            quantile=checks.number("quantile", self.quantile, 0.0, 1.0),
            protect=(first, max(last, 1)),
            costs=None if self.costs is None else checks.numbers("costs", self.costs),
            reference=tuple(
                checks.numbers("reference", row) for row in checks.sequence("reference", self.reference)
            ),
        )
        # Raises for costs that don't fall, and for a reference that doesn't fit the scales.
        if self.costs is None:
            self._policy([FALLING**rank for rank in range(1, len(scales))], 1.0)
        else:
            self._policy(self.costs, self.speedup)

    def start(self, times: StepTimes) -> Policy:
        if self.costs is not None:
            return Native(self._policy(self.costs, self.speedup))
        return _ByTheClock(self, times)

    def words(self, steps: int) -> str:
        return f"{steps} steps, scales by scores, for {self.speedup:.3g} times the speed of these"

    @property
    def target_speedup(self) -> float | None:
        """Times the speed of a full run."""
        return self.speedup

    def check_split(self) -> None:
        if self.costs is None:
            raise ValueError(
                f"{self!r} needs batch='finest': the time of a split step is not known beforehand"
            )

    def check_length(self, total: int) -> None:
        if not total:
            raise ValueError(
                f"Budget(speedup={self.speedup:g}): the length of this run is not known (no sampler of the pipeline "
                "takes part in it), so there is no time to keep to; let the loop step by pipe.scheduler"
            )

    def _policy(self, costs: Sequence[float], speedup: float) -> BudgetPolicy:
        return BudgetPolicy(
            self.scales, costs, speedup, *self.protect, reference=self.reference, mixed="hold"
        )


class _ByTheClock(Policy):
    """A budget that learns what steps cost while the run goes on."""

    def __init__(self, strategy: Budget, times: StepTimes) -> None:
        self._strategy, self._times = strategy, times
        self._guess: tuple[float, ...] = ()
        self._budget: Any = None
        self._warning: str | None = None

    def estimate(self, costs: Mapping[int, float]) -> None:
        self._guess = tuple(costs.get(scale, 1.0) for scale in self._strategy.scales[1:])

    def begin(self, total_steps: int) -> None:
        speedup, largest = self._strategy.speedup, self._strategy.scales[-1]
        possible = self._possible(total_steps, self._guess)
        if speedup > possible:
            protected = min(total_steps, sum(self._strategy.protect))
            raise ValueError(
                f"speedup={speedup:g} can't be reached: at most {possible:.2f} can in {total_steps} steps with the "
                f"{protected} protected ones at scale 1 and all others at scale {largest}, which have "
                f"{self._guess[-1]:.2f} of the arithmetic of a full-size step"
            )
        costs = self._costs()
        possible = self._possible(total_steps, costs)
        if speedup > possible:
            self._warning = (
                f"speedup={speedup:g} can't be reached: by the times of the last run a step at scale {largest} takes "
                f"{costs[-1]:.2f} of a full-size one, so that at most {possible:.2f} can"
            )
        self._times.try_again()
        costs = self._costs()
        # A hair below what is possible, so that rounding doesn't put it out of reach.
        speedup = min(speedup, max(1.0, self._possible(total_steps, costs) * (1 - 1e-9)))
        self._budget = self._strategy._policy(costs, speedup)
        self._budget.begin(total_steps)

    def decide(self, step: int, scores: Scores) -> int:
        scale = self._budget.decide(step, scores)
        return 1 if self._times.saves_nothing(scale) else scale

    def observe(self, step: Any) -> None:
        self._times.observe(step.scale, step.seconds)
        self._budget.revise(self._costs())

    def warning(self) -> str | None:
        return self._warning

    @property
    def per_sample(self) -> Sequence[int]:
        return self._budget.per_sample

    def _costs(self) -> tuple[float, ...]:
        """A step at each scale above 1, in full-size steps, falling."""
        costs, last = [], 1.0
        for scale, guess in zip(self._strategy.scales[1:], self._guess, strict=True):
            last = min(max(self._times.cost(scale, guess), 1e-6), last * FALLING)
            costs.append(last)
        return tuple(costs)

    def _possible(self, total: int, costs: Sequence[float]) -> float:
        full = min(total, sum(self._strategy.protect))
        return total / (full + (total - full) * costs[-1]) if costs else math.inf
