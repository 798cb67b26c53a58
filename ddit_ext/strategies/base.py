"""What every strategy is (frozen data, compared by value) and what decides during a run (a policy)."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar

from . import checks

if TYPE_CHECKING:
    from .clock import StepTimes

DEFAULT_SCALES = (1, 2, 4)
DEFAULT_QUANTILE = 0.4

Scores = Sequence[Sequence[float]] | None
"""[sample][scale]; with source "input" [sample][0], the change of the model's input. None: no signal."""


class Policy(ABC):
    """The state of one run. Derive from it for a policy of your own; `begin` and `decide` are enough.

    An object with these two methods is taken as well. What else it lacks is as here.

    Attributes:
        needs_signal: whether scores are computed for it.
        source: what the scores are of, "latents" or the model's "input".
        mixed: "use" scores every step; "hold" passes None where the last latents come from steps of two scales.
        skips: whether `decide` may answer 0, which skips the step: the blocks' residual of the last computed
            step is added again.
        scales, protect_first, protect_last: in the place of patch's scales and protect. A protected step is at
            scale 1, and `decide` is not asked.
        thresholds: one per scale above 1, for the report.
        per_sample: what each sample alone would have taken at the last decision, for the report.
    """

    needs_signal: bool = True
    source: str = "latents"
    mixed: str = "use"
    skips: bool = False
    per_sample: Sequence[int] = ()

    @abstractmethod
    def begin(self, total_steps: int) -> None:
        """A run of so many steps begins; 0: their number is not known."""

    @abstractmethod
    def decide(self, step: int, scores: Scores) -> int:
        """The scale of step `step` (from 0), asked once a step."""

    def estimate(self, costs: Mapping[int, float]) -> None:  # noqa: B027 (may stay empty)
        """Before a run: {scale: arithmetic of a step, in full-size steps}."""

    def observe(self, step: Any) -> None:  # noqa: B027
        """After a step: its StepRecord, with the scale it took and its seconds."""

    def warning(self) -> str | None:
        """What a run's begin has to tell the user."""
        return None


class Native(Policy):
    """A C++ policy (`ddit_ext.policies`) as a Policy."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy

    def begin(self, total_steps: int) -> None:
        self._policy.begin(total_steps)

    def decide(self, step: int, scores: Scores) -> int:
        return self._policy.decide(step, scores)

    @property
    def per_sample(self) -> Sequence[int]:
        return self._policy.per_sample


class Strategy(ABC):
    """What `ddit_ext.patch(schedule=...)` takes. Its fields are checked once, when it is made."""

    # What a run has to know before it begins. Fields and properties of the same name in a subclass stand for them.
    scales: ClassVar[tuple[int, ...]] = (1,)  # all that a step may take, 1 first
    thresholds: ClassVar[tuple[float, ...]] = ()
    quantile: ClassVar[float] = DEFAULT_QUANTILE
    protect: ClassVar[tuple[int, int]] = (0, 0)
    source: ClassVar[str | None] = None  # of decide's scores: "latents", "input" or None
    holds: ClassVar[bool] = False  # whether scores of steps of two scales are left out
    skips: ClassVar[bool] = False  # whether a step may reuse the residual of the one before
    compares_input: ClassVar[bool] = False  # whether policy.skip is asked with the input's changes
    changes_calls: ClassVar[bool] = True  # whether calls are made at larger patches or without their blocks
    target_speedup: ClassVar[float | None] = None  # times the speed of a full run that is asked for
    sampler: ClassVar[dict[str, Any] | None] = None  # arguments of ForecastScheduler.from_scheduler

    def __new__(cls, *values: Any, **settings: Any) -> Strategy:
        """Raises TypeError for a setting that it does not have, with the one that was meant."""
        checks.keywords(cls.__name__, settings, [field.name for field in fields(cls)])
        return super().__new__(cls)

    @property
    def coarse(self) -> tuple[int, ...]:
        """The scales above 1 that a step can take, for which weights are needed."""
        return self.scales[1:]

    @property
    def computed(self) -> Strategy:
        """What sizes the steps that are computed."""
        return self

    @property
    def fixed(self) -> bool:
        """Whether every step of a run is known before it."""
        return self.source is None and not self.compares_input

    def computed_scales(self, steps: int) -> list[int] | None:
        """The scale of each computed step of a run of `steps` steps; None where the run itself decides."""
        return None

    @abstractmethod
    def start(self, times: StepTimes) -> Policy:
        """The state of a run. times: what steps have taken in this run and those before it."""

    def start_sample(self, times: StepTimes) -> Policy:
        """The state of one sample of a run with batch="split"."""
        return self.start(times)

    @abstractmethod
    def words(self, steps: int) -> str:
        """The strategy in a few words, for a run of `steps` steps."""

    def check_length(self, total: int) -> None:
        """At a run's begin: ValueError where it needs a length that is not known (0)."""
        if self.protect[1] and not total:
            raise ValueError(
                f"the last steps, here {self.protect[1]}, are protected, but the length of this run is not known (no "
                "sampler of the pipeline takes part in it): let the loop step by pipe.scheduler, or protect no last "
                "steps, by protect=(first, 0), or in a policy object by protect_last=0"
            )

    def check_split(self) -> None:
        """Raise where the samples of a batch can't decide for themselves (batch="split")."""
        if self.skips:
            raise NotImplementedError(
                f"batch='split' with a strategy that skips steps ({self!r}): samples would skip different steps; use "
                "batch='finest'"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, from which `strategies.from_dict` makes an equal strategy."""
        data: dict[str, Any] = {"strategy": type(self).__name__}
        for field in fields(self):
            data[field.name] = _plain(getattr(self, field.name))
        return data

    def _set(self, **values: Any) -> None:
        """Put checked values into the fields, in __post_init__."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        shown = [
            repr(getattr(self, field.name))
            if field.default is dataclasses.MISSING
            else f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


def _plain(value: Any) -> Any:
    if isinstance(value, Strategy):
        return value.to_dict()
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def protects(protect: tuple[int, int], step: int, total: int) -> bool:
    """Whether a step is a protected one, in a run of `total` steps (0: unknown, without a last one)."""
    return step < protect[0] or 0 < total <= step + protect[1]
