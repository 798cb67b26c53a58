"""What decides the patch size of every step: `ddit_ext.patch(pipe, schedule=policy)`.

    PatchScheduler   the paper's rule, scores against thresholds, with options against flicker
    BudgetPolicy     a given speedup; the scores say where the fine steps go
    FixedSchedule    one size, or a list of one size a step, in which 0 skips it (`growing_gaps` makes one)
    LinearRamp       coarse at the start, fine at the end
    RandomSchedule   a control: the steps of a LinearRamp in random order
    TeaCachePolicy   TeaCache's rule: skips steps while the model's input hardly changes
    Stacked          TeaCache's rule skips steps, any policy sizes the others
    Policy           the base for one of your own

All but the last two are C++ objects, the same that a C++ program uses (`ddit_ext/policy.h`). A policy object holds
the state of one run; `patch` takes a copy (copy.deepcopy), so that one object may be given to several pipelines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from ._core import (
    BudgetPolicy,
    FixedSchedule,
    LinearRamp,
    PatchScheduler,
    RandomSchedule,
    RunPolicy,
    TeaCachePolicy,
    coarse_share,
    growing_gaps,
)

__all__ = [
    "SKIP",
    "BudgetPolicy",
    "FixedSchedule",
    "LinearRamp",
    "PatchScheduler",
    "Policy",
    "RandomSchedule",
    "Stacked",
    "TeaCachePolicy",
    "coarse_share",
    "growing_gaps",
]

SKIP = 0
"""A decision in the place of a size: the step is not computed (`ddit::kSkip`)."""


class Policy(ABC):
    """A policy of your own: `begin` and `decide`, and where they differ from these, the attributes.

    Deriving from this class is not needed; an object with both methods will do. Those of C++ are instances too.

    Attributes:
        needs_signal: whether to compute scores for it.
        order, source, mixed: what the scores are made of, as in PatchScheduler. With source "input" a sample has one
            score, as in TeaCachePolicy.
        skips: whether decide may answer 0, which skips the step.
        per_sample: what each sample would have taken by itself at the last decision; for the report.
        scales, protect_first, protect_last: in the place of patch's scales and protect, where it has them; protected
            steps are at size 1 and not asked for.
        thresholds: one per scale above 1; for the report.
    """

    needs_signal: bool = True
    order: int = 3
    source: str = "latents"
    mixed: str = "use"
    skips: bool = False
    per_sample: Sequence[int] = ()

    @abstractmethod
    def begin(self, total_steps: int) -> None:
        """A run of so many steps begins; 0 where their number is unknown."""

    @abstractmethod
    def decide(self, step: int, scores: Sequence[Sequence[float]] | None) -> int:
        """The size of step `step` (from 0), one of patch's scales; asked once a step.

        scores: [sample][scale], one per scale of patch; None without a signal, as in the first steps of a run, and
        where mixed is "hold" and the last differences are of two sizes.
        0, where skips: what the model's blocks added at the last computed step is added again, or, with
            patch(forecast=…), what follows from the last two.
        """


class Stacked(Policy):
    """Two policies, each with scores of its own source: one skips steps, the other sizes those that are not skipped.

    skip: a TeaCachePolicy (or one of your own with source "input" that answers 0 or 1). sizes: what `patch` takes as
    schedule, None being the paper's rule; it looks at latents or outputs, or at nothing.

    Steps that `sizes` protects are at size 1 and not skipped; those that `skip` protects are not skipped. `sizes` is
    not asked at a skipped step, and a budget counts none: what skipped steps save goes to the others. With
    mixed="hold" a skipped step counts as a size of its own.
    """

    def __init__(self, skip: Any, sizes: Any = None) -> None:
        if getattr(skip, "source", None) != "input" or not hasattr(skip, "skips"):
            raise TypeError(
                f"Stacked: skip must be a policy with source 'input', such as TeaCachePolicy, got {skip!r}"
            )
        if tuple(getattr(skip, "scales", (1,))) != (1,):
            raise ValueError(
                f"Stacked: skip must have no scales but (1,), as sizes decides them, got {tuple(skip.scales)}"
            )
        if getattr(sizes, "skips", False) or getattr(sizes, "source", None) == "input":
            raise ValueError(f"Stacked: sizes must skip no steps and not look at the input, got {sizes!r}")
        self.skip = skip
        self.sizes = sizes
        self._total = 0

    @property
    def needs_signal(self) -> bool:
        """Whether `sizes` does."""
        return getattr(self.sizes, "needs_signal", Policy.needs_signal)

    @property
    def source(self) -> str:
        """Of the scores that `sizes` has; those of `skip` are of the input."""
        return getattr(self.sizes, "source", Policy.source)

    @property
    def order(self) -> int:
        """Of `sizes`."""
        return getattr(self.sizes, "order", Policy.order)

    @property
    def mixed(self) -> str:
        """Of `sizes`."""
        return getattr(self.sizes, "mixed", Policy.mixed)

    @property
    def skips(self) -> bool:
        """Whether `skip` may."""
        return self.skip.skips

    @property
    def scales(self) -> Sequence[int]:
        """Of `sizes`."""
        return self.sizes.scales

    @property
    def thresholds(self) -> Sequence[float]:
        """Of `sizes`."""
        return getattr(self.sizes, "thresholds", ())

    @property
    def per_sample(self) -> Sequence[int]:
        """Of `sizes`, at its last decision."""
        return getattr(self.sizes, "per_sample", ())

    @property
    def protect_first(self) -> int:
        """The steps at the beginning that neither skips."""
        return max(getattr(policy, "protect_first", 0) for policy in (self.skip, self.sizes))

    @property
    def protect_last(self) -> int:
        """The steps at the end that neither skips."""
        return max(getattr(policy, "protect_last", 0) for policy in (self.skip, self.sizes))

    def begin(self, total_steps: int) -> None:
        """Begin a run with both."""
        self.skip.begin(total_steps)
        self.sizes.begin(total_steps)
        self._total = total_steps

    def skipped(self, step: int, changes: Sequence[Sequence[float]] | None) -> bool:
        """Whether a step is skipped; changes: [sample][0], of the input. Asked once a step, before `decide`."""
        protected = protects(self, step, self._total)
        answer = self.skip.decide(step, None if protected else changes)
        return not protected and answer == 0

    def decide(self, step: int, scores: Sequence[Sequence[float]] | None) -> int:
        """The size of a step that is not skipped, by scores of `source`."""
        return self.sizes.decide(step, scores)

    def __repr__(self) -> str:
        return f"Stacked(skip={self.skip!r}, sizes={self.sizes!r})"


def protects(policy: Any, step: int, total_steps: int) -> bool:
    """Whether a step is one of a policy's protected ones, of a run of so many steps (0: unknown, without a last one)."""
    return step < policy.protect_first or 0 < total_steps <= step + policy.protect_last


Policy.register(RunPolicy)
