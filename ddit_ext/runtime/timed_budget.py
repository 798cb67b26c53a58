"""`patch(target_speedup=…)`: a budget whose step costs are guessed from arithmetic and corrected by the clock."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from .. import policies
from .timed import Timed

FALLING = 0.99
"""A measured cost is at most this share of the next finer size's: a budget has no use for a size that saves nothing."""


class TimedBudget(Timed):
    """A BudgetPolicy that learns what a step costs while the run goes on, and knows it in the next one.

    At least the last step stays at p: what a coarse last step gets wrong is in the picture.
    """

    mixed = "hold"

    def __init__(self, scales: Sequence[int], target: float, protect: tuple[int, int]) -> None:
        super().__init__(scales, target, (protect[0], max(protect[1], 1)))
        self._budget: policies.BudgetPolicy | None = None
        self._guess: tuple[float, ...] = ()

    def estimate(self, costs: Mapping[int, float], key: Hashable) -> None:
        """Before a run: costs by arithmetic, in steps at p; key: what has to be the same for measured times to hold."""
        super().estimate(costs, key)
        self._guess = tuple(costs[scale] for scale in self.scales[1:])

    def begin(self, total_steps: int) -> None:
        """A run of so many steps begins.

        ValueError: a number of steps that isn't known, or a target that even by arithmetic can't be reached.
        """
        super().begin(total_steps)
        possible = self._possible(total_steps, self._guess)
        if self.target > possible:
            raise ValueError(
                f"target_speedup={self.target:g} can't be reached: at most {possible:.2f} can in {total_steps} steps "
                f"with the {self._protected(total_steps)} protected ones at p and all others at {self.scales[-1]}p, "
                f"which have {self._guess[-1]:.2f} of the arithmetic of a step at p"
            )
        costs = self._costs()
        possible = self._possible(total_steps, costs)
        self.remark = None
        if self.target > possible:
            self.remark = (
                f"target_speedup={self.target:g} can't be reached: by the times of the last run a step at "
                f"{self.scales[-1]}p takes {costs[-1]:.2f} of one at p, so that at most {possible:.2f} can"
            )
        self._try_again()
        costs = self._costs()
        possible = self._possible(total_steps, costs)
        # By a hair less than what is possible, so that rounding doesn't put it out of reach.
        target = min(self.target, max(1.0, possible * (1 - 1e-9)))
        budget = policies.BudgetPolicy(
            self.scales, costs, target, self.protect_first, self.protect_last, mixed=self.mixed
        )
        budget.begin(total_steps)
        self._budget = budget

    def decide(self, step: int, scores: Sequence[Sequence[float]] | None) -> int:
        """The size of a step."""
        assert self._budget is not None
        scale = self._budget.decide(step, scores or [])
        return 1 if self._saves_nothing(scale) else scale

    @property
    def per_sample(self) -> list[int]:
        """What each sample would have taken by itself at the last decision."""
        return [] if self._budget is None else self._budget.per_sample

    def _revise(self) -> None:
        if self._budget is not None:
            self._budget.revise(self._costs())

    def _costs(self) -> tuple[float, ...]:
        """Of a step at each coarse scale, in steps at p: measured where both were, else by arithmetic; falling."""
        costs, last = [], 1.0
        for scale, guess in zip(self.scales[1:], self._guess, strict=True):
            last = min(max(self._cost(scale, guess), 1e-6), last * FALLING)
            costs.append(last)
        return tuple(costs)

    def _possible(self, total: int, costs: Sequence[float]) -> float:
        fine = self._protected(total)
        return total / (fine + (total - fine) * costs[-1])

    def __repr__(self) -> str:
        return f"TimedBudget(target_speedup={self.target:g}, costs={self._costs() if self._guess else 'not known yet'})"
