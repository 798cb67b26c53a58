"""What decides the patch size of every step: `ddit_ext.patch(pipe, schedule=policy)`.

    PatchScheduler   the paper's rule, scores against thresholds, with options against flicker
    BudgetPolicy     a given speedup; the scores say where the fine steps go
    FixedSchedule    one size, or a list of one size a step, in which 0 skips it (`growing_gaps` makes one)
    LinearRamp       coarse at the start, fine at the end
    RandomSchedule   a control: the steps of a LinearRamp in random order
    TeaCachePolicy   TeaCache's rule: skips steps while the model's input hardly changes
    Policy           the base for one of your own

All but the last are C++ objects, the same that a C++ program uses (`ddit_ext/policy.h`). A policy object holds
the state of one run; `patch` takes a copy (copy.deepcopy), so that one object may be given to several pipelines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

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
    "BudgetPolicy",
    "FixedSchedule",
    "LinearRamp",
    "PatchScheduler",
    "Policy",
    "RandomSchedule",
    "TeaCachePolicy",
    "coarse_share",
    "growing_gaps",
]


class Policy(ABC):
    """A policy of your own: `begin` and `decide`, and where they differ from these, the attributes.

    Deriving from this class is not needed; an object with both methods will do. Those of C++ are instances too.

    Attributes:
        needs_signal: whether to compute scores for it.
        order, source, mixed: what the scores are made of, as in PatchScheduler. With source "input" a sample has one
            score, as in TeaCachePolicy.
        skips: whether decide may answer 0, which skips the step.
        per_sample: what each sample would have taken by itself at the last decision; for the report.
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
        0, where skips: what the model's blocks added at the last computed step is added again.
        """


Policy.register(RunPolicy)
