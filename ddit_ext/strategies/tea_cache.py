"""`TeaCache`: skip steps while the model's input hardly changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .._core import TeaCachePolicy
from . import checks
from .base import Native, Policy, Scores, protects
from .clock import StepTimes
from .sized import Sized


@dataclass(frozen=True, repr=False)
class TeaCache(Sized):
    """TeaCache's rule (arXiv 2411.19108): a skipped step adds the blocks' residual of the last computed one again.

    The relative L1 change of the first block's input is rescaled by a polynomial and summed up; below `threshold`
    the step is skipped.

    Args:
        threshold: 0 skips nothing.
        sizes: a strategy, int or list for the computed steps; None: all at scale 1.
        coefficients: of the polynomial, highest power first, fitted to a model.
        protect: so many steps at the beginning and at the end are computed, at scale 1.
    """

    threshold: float
    sizes: Any = None
    coefficients: Sequence[float] = (1.0, 0.0)
    protect: tuple[int, int] = (1, 1)

    skips = True

    def __post_init__(self) -> None:
        self._set(
            threshold=checks.number("threshold", self.threshold, 0.0),
            sizes=self._inner(),
            coefficients=checks.numbers("coefficients", self.coefficients, -math.inf),
            protect=checks.protected("protect", self.protect),
        )
        self._rule()  # raises for coefficients of no polynomial

    @property
    def source(self) -> str | None:
        """ "input", or what the scores of `sizes` are of."""
        return "input" if self.sizes is None else self.sizes.source

    @property
    def compares_input(self) -> bool:
        """Whether the input's changes come beside scores of `sizes`."""
        return self.sizes is not None

    def start(self, times: StepTimes) -> Policy:
        if self.sizes is None:
            return Native(self._rule())
        return _Skipping(self, self.sizes.start(times))

    def words(self, steps: int) -> str:
        unskipped = self.computed.words(steps)
        return f"{unskipped}, skipped while the input has changed by less than {self.threshold:#.2g}"

    def _rule(self) -> TeaCachePolicy:
        return TeaCachePolicy(
            self.threshold,
            coefficients=self.coefficients,
            protect_first=self.protect[0],
            protect_last=self.protect[1],
        )


class _Skipping(Policy):
    """The rule says which steps are skipped, another policy sizes the computed ones.

    That one is not asked at a skipped step, and a budget counts none: what skipped steps save goes to the others.
    """

    def __init__(self, strategy: TeaCache, sizes: Policy) -> None:
        self._rule = strategy._rule()
        ends = (strategy.protect, strategy.sizes.protect)
        self._protect = (max(first for first, _ in ends), max(last for _, last in ends))
        self._sizes = sizes
        self._total = 0
        self.estimate, self.observe, self.warning = sizes.estimate, sizes.observe, sizes.warning

    def begin(self, total_steps: int) -> None:
        self._total = total_steps
        self._rule.begin(total_steps)
        self._sizes.begin(total_steps)

    def skip(self, step: int, changes: Scores) -> bool:
        """Whether a step is skipped by the changes of the model's input, before it is scored."""
        protected = protects(self._protect, step, self._total)
        answer = self._rule.decide(step, None if protected else changes)
        return not protected and answer == 0

    def decide(self, step: int, scores: Scores) -> int:
        return self._sizes.decide(step, scores)

    @property
    def per_sample(self) -> Sequence[int]:
        return self._sizes.per_sample
