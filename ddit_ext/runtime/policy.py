"""The policy of a patched pipeline: what patch()'s `schedule` stands for, and a run's decisions by it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .. import policies
from ..policies import SKIP, protects
from . import arguments
from .timed import Timed

Scores = list[list[float]] | None
Schedule = int | Sequence[int] | Callable[[int], int] | policies.Policy | None

DEFAULT_SCALES = (1, 2, 4)
SOURCES = ("latents", "outputs", "input")
MIXED = ("use", "hold")
OF_POLICY = "schedule: {} of the policy"


class OwnPolicy(policies.Policy):
    """A user's own object or function: its answers are checked, protected steps don't ask it."""

    def __init__(self, own: Any, scales: tuple[int, ...], protect: tuple[int, int]) -> None:
        self.scales = scales
        self.protect_first, self.protect_last = protect
        self.needs_signal = bool(getattr(own, "needs_signal", True))
        self.order = _one_of("order", getattr(own, "order", 3), (1, 2, 3))
        self.source = _one_of("source", getattr(own, "source", "latents"), SOURCES)
        self.mixed = _one_of("mixed", getattr(own, "mixed", "use"), MIXED)
        self.skips = bool(getattr(own, "skips", False))
        levels, count = getattr(own, "thresholds", None), len(scales) - 1
        self.thresholds: tuple[float, ...] = ()
        if levels is not None:
            self.thresholds = arguments.thresholds(OF_POLICY.format("thresholds"), levels, count)
        self._own = own
        self._total = 0

    def begin(self, total_steps: int) -> None:
        self._total = total_steps
        self._own.begin(total_steps)

    def decide(self, step: int, scores: Scores) -> int:
        self.per_sample = ()
        if protects(self, step, self._total):
            return 1
        answers = (SKIP, *self.scales) if self.skips else self.scales
        scale = supported(self._own.decide(step, scores), answers, f"schedule at step {step}")
        alone = list(getattr(self._own, "per_sample", ()))
        if scores and alone:
            if len(alone) != len(scores):
                raise ValueError(
                    f"schedule: per_sample must have {len(scores)} entries, one a sample, got {len(alone)}"
                )
            self.per_sample = [supported(size, answers, "schedule: per_sample") for size in alone]
        return scale

    def __repr__(self) -> str:
        return repr(self._own)


class Function:
    """callable(step) -> scale as a policy; copies share the function."""

    needs_signal = False

    def __init__(self, call: Callable[[int], int]) -> None:
        self._call = call

    def begin(self, total_steps: int) -> None:
        """Nothing to do."""

    def decide(self, step: int, scores: Scores) -> int:
        return self._call(step)

    def __deepcopy__(self, memo: dict) -> Function:
        return Function(self._call)

    def __repr__(self) -> str:
        return repr(self._call)


def make_policy(
    schedule: Any, scales: tuple[int, ...], thresholds: tuple[float, ...], protect: tuple[int, int]
) -> Any:
    """What `schedule` stands for: an object with begin, decide, scales, ..., that nobody else holds.

    TypeError, ValueError: what is wrong with `schedule`, or with `scales` and `protect` beside it.
    """
    if schedule is None:
        return policies.PatchScheduler(scales, thresholds, *protect)
    if isinstance(schedule, policies.Stacked):
        sizes = make_policy(schedule.sizes, scales, thresholds, protect)
        return policies.Stacked(make_policy(schedule.skip, (1,), (), (0, 0)), sizes)
    if isinstance(schedule, policies.RunPolicy):
        _brought(schedule, scales, protect)
        return copy.deepcopy(schedule)
    if isinstance(schedule, type):
        raise TypeError(f"schedule must be an object, got the class {schedule.__name__}")
    if callable(getattr(schedule, "decide", None)) and callable(getattr(schedule, "begin", None)):
        try:
            own = copy.deepcopy(schedule)
        except Exception as error:
            raise TypeError(
                f"schedule: copy.deepcopy must be able to copy a policy, but of {type(schedule).__name__} it "
                f"says: {error}"
            ) from error
        return OwnPolicy(own, *_brought(own, scales, protect))
    if callable(schedule):
        return OwnPolicy(Function(schedule), scales, protect)
    if arguments.whole(schedule):
        return policies.FixedSchedule(scales, supported(schedule, scales, "schedule"), *protect)
    if isinstance(schedule, Sequence) and not isinstance(schedule, str | bytes):
        answers = (SKIP, *scales)
        sizes = [supported(size, answers, f"schedule[{i}]") for i, size in enumerate(schedule)]
        return policies.FixedSchedule(scales, sizes, *protect)
    raise TypeError(
        "schedule must be None, an int, a list of one scale a step, a callable(step) -> scale or a policy "
        f"(ddit_ext.policies), got {type(schedule).__name__}"
    )


def _brought(
    policy: Any, scales: tuple[int, ...], protect: tuple[int, int]
) -> tuple[tuple[int, ...], tuple[int, int]]:
    """Scales and protected steps of a policy object, or what patch() was given where it has none of its own."""
    own = getattr(policy, "scales", None)
    if own is not None:
        own = arguments.sizes(OF_POLICY.format("scales"), own)
        if scales not in (own, DEFAULT_SCALES):
            raise ValueError(f"scales: the policy in schedule has {own}, got {scales}")
        scales = own
    names = ("protect_first", "protect_last")
    if any(hasattr(policy, name) for name in names):
        if protect != (0, 0):
            raise ValueError(
                f"protect={protect}: a policy in schedule has its own protect_first, protect_last"
            )
        values = tuple(getattr(policy, name, 0) for name in names)
        protect = arguments.protected(OF_POLICY.format("(protect_first, protect_last)"), values)
    return scales, protect


def always_fine(policy: Any) -> bool:
    """Whether no step can be coarse, whatever happens."""
    if isinstance(policy, policies.Stacked):
        return always_fine(policy.sizes)
    if isinstance(policy, policies.FixedSchedule):
        schedule = policy.schedule
        return schedule == 1 if isinstance(schedule, int) else max(schedule) == 1
    return tuple(policy.scales) == (1,)


def supported(scale: Any, scales: tuple[int, ...], name: str) -> int:
    """The scale as an int; ValueError, that says where it came from, where it is none of `scales`."""
    if not arguments.whole(scale) or int(scale) not in scales:
        skip = f", or {SKIP} to skip the step" if SKIP in scales else ""
        sizes = tuple(size for size in scales if size != SKIP)
        raise ValueError(f"{name}: expected one of the scales {sizes}{skip}, got {scale!r}")
    return int(scale)


@dataclass(frozen=True)
class Decision:
    """The sizes of a step; SKIP stands for one that is not computed.

    scale: of the batch; of its finest sample where they differ. taken: of each sample where they may differ.
    alone: what each sample would have taken by itself, where the policy says so.
    """

    scale: int
    taken: list[int] | None = None
    alone: list[int] | None = None


class Decider:
    """One run after the other: a decision a step by one policy, or a decision a sample by copies of it.

    split: each sample has a policy of its own, as if it ran alone. Up to the first signal there is no difference
    between samples, so the copies are made then. NotImplementedError for a policy that skips steps.
    """

    def __init__(self, policy: Any, split: bool) -> None:
        self.policy = policy
        self.scales: tuple[int, ...] = tuple(policy.scales)
        self.needs_signal: bool = policy.needs_signal
        self.order: int = getattr(policy, "order", 3)
        self.source: str = getattr(policy, "source", SOURCES[0])
        self.skips: bool = bool(getattr(policy, "skips", False))
        self.stacked = self.skips and isinstance(policy, policies.Stacked)  # asked by skipped(), too
        self.compares_input = self.stacked or (self.needs_signal and self.source == "input")
        self.holds: bool = getattr(policy, "mixed", MIXED[0]) == "hold"
        if split and self.skips:
            raise NotImplementedError(
                f"batch='split' with a schedule that skips steps ({type(policy).__name__}): samples would skip "
                "different steps; use batch='finest'"
            )
        self.split = split
        self._copies: list[Any] | None = None

    def begin(self, total: int) -> None:
        """Start a run of `total` steps (0: unknown); ValueError where the policy can't serve such a run."""
        last = self.policy.protect_last
        if last and not total and not isinstance(self.policy, Timed):  # which says itself what it lacks
            raise ValueError(
                f"the last steps, here {last}, are protected, but the length of this run is not known (no sampler of "
                "the pipeline takes part in it): let the loop step by pipe.scheduler, or protect no last steps, by "
                "protect=(first, 0), or in a policy object by protect_last=0"
            )
        self._copies = None
        self.policy.begin(total)

    def skipped(self, step: int, changes: Scores) -> bool:
        """Of a stacked policy: whether the step is skipped, by how much the model's input changed [sample][0]."""
        return self.policy.skipped(step, changes)

    def decide(self, step: int, scores: Scores, usable: Sequence[bool]) -> Decision:
        """usable: whether each sample's scores count (all of them unless differences of two sizes are left out)."""
        if not self.split:
            seen = scores if all(usable) else None
            scale = self.policy.decide(step, seen)
            return Decision(scale, alone=list(self.policy.per_sample) or None)
        if self._copies is None and scores:
            self._copies = [copy.deepcopy(self.policy) for _ in scores]
        if self._copies is None:
            return Decision(self.policy.decide(step, None))
        taken = []
        for i, sample in enumerate(self._copies):
            taken.append(sample.decide(step, [scores[i]] if scores and usable[i] else None))
        return Decision(min(taken), taken=taken)


def _one_of(name: str, value: Any, allowed: tuple) -> Any:
    if value not in allowed:
        raise ValueError(f"{OF_POLICY.format(name)} must be one of {allowed}, got {value!r}")
    return value
