"""Which patch size a step takes: by signal, by a fixed schedule or by the user's own function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

Schedule = int | Sequence[int] | Callable[[int], int] | None
Scores = list[list[float]] | None


@dataclass(frozen=True)
class Decision:
    """The patch size of a step, for the batch and as each sample alone would have had it (None: the same)."""

    scale: int
    per_sample: list[int] | None = None


class Policy:
    """Asked once a step. protect: so many first and last steps of a run stay at size 1."""

    needs_signal = False

    def __init__(self, protect: tuple[int, int]) -> None:
        self._protect = protect

    def begin(self, total: int) -> None:
        """Start a run of `total` steps (0: unknown); ValueError where the schedule can't serve such a run."""
        if self._protect[1] and not total:
            raise ValueError(
                f"protect={self._protect}: the length of this run is not known (no sampler of the pipeline "
                "takes part in it), so its last steps can't be told; use protect=(first, 0)"
            )

    def decide(self, step: int, scores: Scores) -> Decision:
        """The patch size of step `step` (from 0); scores[sample][scale] or None without a signal."""
        raise NotImplementedError


class Dynamic(Policy):
    """The paper's rule, in C++: the largest size whose score is below its threshold."""

    needs_signal = True

    def __init__(self, scales: Sequence[int], thresholds: Sequence[float], protect: tuple[int, int]) -> None:
        from .. import PatchScheduler

        super().__init__(protect)
        self._scheduler = PatchScheduler(list(scales), list(thresholds), *protect)

    def begin(self, total: int) -> None:
        super().begin(total)
        self._scheduler.begin(total)

    def decide(self, step: int, scores: Scores) -> Decision:
        scale = self._scheduler.decide(step, scores or [])
        return Decision(scale, list(self._scheduler.per_sample) if scores else None)


class Fixed(Policy):
    """A size for every step, from the first on, whatever the latents do; protected steps stay at size 1."""

    def __init__(self, schedule: Any, scales: Sequence[int], protect: tuple[int, int]) -> None:
        super().__init__(protect)
        self._scales = tuple(scales)
        self._total = 0
        self._list: list[int] | None = None
        self._call: Callable[[int], Any]
        if callable(schedule):
            self._call = schedule
        elif _is_integer(schedule):
            scale = self._supported(schedule, "schedule")
            self._call = lambda step: scale
        elif isinstance(schedule, Sequence) and not isinstance(schedule, str | bytes):
            if not schedule:
                raise ValueError("schedule must hold one scale a step, got an empty list")
            self._list = [self._supported(scale, f"schedule[{i}]") for i, scale in enumerate(schedule)]
            self._call = self._list.__getitem__
        else:
            raise TypeError(
                "schedule must be None, an int, a list of one scale a step or a callable(step) -> scale, "
                f"got {type(schedule).__name__}"
            )
        self.always_fine = schedule == 1 if self._list is None else all(scale == 1 for scale in self._list)

    def begin(self, total: int) -> None:
        super().begin(total)
        self._total = total
        if self._list is not None and len(self._list) < total:
            raise ValueError(
                f"schedule has {len(self._list)} entries, but this run has {total} steps: it needs one a step"
            )

    def decide(self, step: int, scores: Scores) -> Decision:
        first, last = self._protect
        if step < first or (self._total and step >= self._total - last):
            return Decision(1)
        if self._list is not None and step >= len(self._list):
            raise ValueError(f"schedule has {len(self._list)} entries, but the run has come to step {step}")
        return Decision(self._supported(self._call(step), f"schedule at step {step}"))

    def _supported(self, scale: Any, name: str) -> int:
        if not _is_integer(scale) or int(scale) not in self._scales:
            raise ValueError(f"{name}: expected one of the scales {self._scales}, got {scale!r}")
        return int(scale)


def _is_integer(value: Any) -> bool:
    return type(value) is int or (isinstance(value, Integral) and not isinstance(value, bool))
