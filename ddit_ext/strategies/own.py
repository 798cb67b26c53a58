"""A user's own policy object, or a function of the step, as a strategy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .._core import RunPolicy
from . import checks
from .base import DEFAULT_QUANTILE, DEFAULT_SCALES, Native, Policy, Scores, Strategy, protects
from .clock import StepTimes
from .threshold import MIXED

SOURCES = ("latents", "input")
OF_POLICY = "schedule: {} of the policy"


@dataclass(frozen=True, repr=False, eq=False)
class Own(Strategy):
    """An object with `begin` and `decide`; its attributes are described at `Policy`.

    One object serves one run after the other, so `begin` must set all of its state. With batch="split" each sample
    has a shallow copy. An object with a method `start()`, which returns a fresh policy, is asked for one each time,
    and C++ policies are copied.
    """

    policy: Any
    scales: Sequence[int] = DEFAULT_SCALES
    quantile: float = DEFAULT_QUANTILE
    protect: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        scales, protect = checks.scales("scales", self.scales), checks.protected("protect", self.protect)
        own = self._said("scales", None)
        if own is not None:
            own = checks.scales(OF_POLICY.format("scales"), own)
            if scales not in (own, DEFAULT_SCALES):
                raise ValueError(f"scales: the policy in schedule has {own}, got {scales}")
            scales = own
        ends = (self._said("protect_first", None), self._said("protect_last", None))
        if ends != (None, None):
            if protect != (0, 0):
                raise ValueError(
                    f"protect={protect}: a policy in schedule has its own protect_first, protect_last"
                )
            name = OF_POLICY.format("(protect_first, protect_last)")
            protect = checks.protected(name, tuple(end or 0 for end in ends))
        self._set(scales=scales, protect=protect, quantile=checks.number("quantile", self.quantile, 0.0, 1.0))
        _ = self.source, self.holds, self.thresholds  # raise

    def _said(self, name: str, default: Any) -> Any:
        """An attribute of the object, or the default: it need not derive from Policy."""
        return getattr(self.policy, name, default)

    @property
    def source(self) -> str | None:
        """What its scores are of; None: it needs none."""
        source = checks.one_of(OF_POLICY.format("source"), self._said("source", Policy.source), SOURCES)
        return source if self._said("needs_signal", Policy.needs_signal) else None

    @property
    def holds(self) -> bool:
        """Whether scores of steps of two scales are left out."""
        mixed = self._said("mixed", Policy.mixed)
        return checks.one_of(OF_POLICY.format("mixed"), mixed, MIXED) == "hold"

    @property
    def skips(self) -> bool:
        """Whether it may answer 0."""
        return bool(self._said("skips", Policy.skips))

    @property
    def thresholds(self) -> tuple[float, ...]:
        """One per scale above 1, or none."""
        levels = self._said("thresholds", None)
        if levels is None or (checks.is_sequence(levels) and not len(levels)):
            return ()
        return checks.thresholds(OF_POLICY.format("thresholds"), levels, len(self.scales) - 1)

    @property
    def fixed(self) -> bool:
        """Nobody knows what the object will answer."""
        return False

    def start(self, times: StepTimes) -> Policy:
        if isinstance(self.policy, RunPolicy):
            return Native(copy.copy(self.policy))
        makes = callable(self._said("start", None))
        return _Checked(self, self.policy.start() if makes else self.policy)

    def start_sample(self, times: StepTimes) -> Policy:
        if isinstance(self.policy, RunPolicy) or callable(self._said("start", None)):
            return self.start(times)
        return _Checked(self, copy.copy(self.policy))

    def words(self, steps: int) -> str:
        return f"{steps} steps, by {self.policy!r}"

    def to_dict(self) -> dict[str, Any]:
        """Raises TypeError: code is no data."""
        raise TypeError(f"a policy of your own is no data that can be saved, got {self.policy!r}")

    def __repr__(self) -> str:
        return repr(self.policy)


class Function(Policy):
    """callable(step) -> scale as a policy."""

    needs_signal = False

    def __init__(self, call: Callable[[int], int]) -> None:
        self._call = call

    def start(self) -> Function:
        """It keeps no state."""
        return self

    def begin(self, total_steps: int) -> None:
        pass

    def decide(self, step: int, scores: Scores) -> int:
        return self._call(step)

    def __repr__(self) -> str:
        return repr(self._call)


class _Checked(Policy):
    """Asks a user's object at the steps that are not protected, and checks its answers."""

    def __init__(self, strategy: Own, policy: Any) -> None:
        self._strategy, self._policy = strategy, policy
        self._total = 0
        for name in ("estimate", "observe", "warning"):  # what it lacks has an empty body
            if callable(getattr(policy, name, None)):
                setattr(self, name, getattr(policy, name))

    def begin(self, total_steps: int) -> None:
        self._total = total_steps
        self._policy.begin(total_steps)

    def decide(self, step: int, scores: Scores) -> int:
        own = self._strategy
        self.per_sample = ()
        if protects(own.protect, step, self._total):
            return 1
        answer = self._policy.decide(step, scores)
        scale = checks.scale(f"schedule at step {step}", answer, own.scales, own.skips)
        alone = list(getattr(self._policy, "per_sample", ()))
        if scores and alone:
            if len(alone) != len(scores):
                raise ValueError(
                    f"schedule: per_sample must have {len(scores)} entries, one a sample, got {len(alone)}"
                )
            name = "schedule: per_sample"
            self.per_sample = [checks.scale(name, size, own.scales, own.skips) for size in alone]
        return scale
