"""`Fixed`: the scale of each step is known before the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from . import checks
from .base import Policy, Scores, Strategy, protects
from .clock import StepTimes

SKIP = 0
"""In the place of a scale: the step adds the residual of the last computed one again."""


@dataclass(frozen=True, repr=False)
class Fixed(Strategy):
    """One scale for all steps, or a list of one scale a step.

    Args:
        sizes: a scale, or one a step. 0 (not as the first) skips a step: the blocks' residual of the last computed
            step is added again.
        scales: those that are allowed, 1 first, ascending; None: those in `sizes`.
        protect: so many steps at the beginning and at the end of a run are at scale 1.
        stretch: a run of another length has as large a share of each stretch of equal scales. Else a list must not
            be shorter than the run.

    Raises:
        TypeError, ValueError: a bad value, by name.
    """

    sizes: int | Sequence[int]
    scales: Sequence[int] | None = None
    protect: tuple[int, int] = (0, 0)
    stretch: bool = False

    def __post_init__(self) -> None:
        several = checks.is_sequence(self.sizes)
        found = list(checks.sequence("sizes", self.sizes)) if several else [self.sizes]
        if not found:
            raise ValueError("schedule: expected one scale a step, got an empty list")
        if self.scales is None:
            whole = [checks.whole("sizes", size, SKIP) for size in found]
            allowed: tuple[int, ...] = tuple(sorted({1, *whole} - {SKIP}))
        else:
            allowed = checks.scales("scales", self.scales)
        names = [f"schedule[{i}]" for i in range(len(found))] if several else ["schedule"]
        checked = [
            checks.scale(name, size, allowed, skips=several) for name, size in zip(names, found, strict=True)
        ]
        if checked[0] == SKIP:
            raise ValueError(
                "schedule[0]: the first step can't be skipped: there is nothing to use again; begin with 1"
            )
        self._set(
            sizes=tuple(checked) if several else checked[0],
            scales=allowed,
            protect=checks.protected("protect", self.protect),
            stretch=bool(self.stretch),
        )

    @property
    def skips(self) -> bool:
        """Whether a step is skipped."""
        return SKIP in self._all

    @property
    def changes_calls(self) -> bool:
        """Whether a step is coarse or skipped."""
        return max(self._all) > 1 or self.skips

    @property
    def coarse(self) -> tuple[int, ...]:
        """The scales above 1 in it."""
        return tuple(sorted({size for size in self._all if size > 1}))

    @property
    def _all(self) -> tuple[int, ...]:
        return self.sizes if isinstance(self.sizes, tuple) else (self.sizes,)

    def sizes_of(self, total: int) -> list[int]:
        """The scale of each step of a run; total 0: of as many as there are in the list.

        Raises:
            ValueError: a list that is shorter than the run.
        """
        if not isinstance(self.sizes, tuple):
            sizes = [self.sizes] * total
        elif self.stretch and total not in (0, len(self.sizes)):
            sizes = _stretched(self.sizes, total)
        elif total > len(self.sizes):
            raise ValueError(
                f"schedule has {len(self.sizes)} entries, but this run has {total} steps: it needs one a "
                "step. Fixed(..., stretch=True) fits any number"
            )
        else:
            sizes = list(self.sizes)
        return [1 if protects(self.protect, step, total) else size for step, size in enumerate(sizes)]

    def computed_scales(self, steps: int) -> list[int]:
        return [size for size in self.sizes_of(steps) if size != SKIP]

    def start(self, times: StepTimes) -> Policy:
        return _List(self)

    def __repr__(self) -> str:
        shown = [repr(self.sizes)]
        if self.scales != tuple(sorted({1, *self.coarse})):
            shown.append(f"scales={self.scales}")
        shown += [f"protect={self.protect}"] if self.protect != (0, 0) else []
        shown += ["stretch=True"] if self.stretch else []
        return f"Fixed({', '.join(shown)})"

    def words(self, steps: int) -> str:
        names = [
            f"{len(list(group))} {'skipped' if size == SKIP else f'at scale {size}'}"
            for size, group in groupby(self.sizes_of(steps))
        ]
        if len(names) == 1:
            return f"{steps} steps" + ("" if self.sizes_of(1) == [1] else f" at scale {self._all[0]}")
        shown = names if len(names) <= 5 else [*names[:4], "…"]
        return f"{steps} steps: {', '.join(shown)}"


class _List(Policy):
    """Reads the scale of each step from the list."""

    needs_signal = False

    def __init__(self, strategy: Fixed) -> None:
        self._strategy = strategy
        self._sizes: list[int] = []
        self._total = 0

    def begin(self, total_steps: int) -> None:
        self._total = total_steps
        self._sizes = self._strategy.sizes_of(total_steps)

    def decide(self, step: int, scores: Scores) -> int:
        if step < len(self._sizes):
            return self._sizes[step]
        if not isinstance(self._strategy.sizes, tuple):
            return self._strategy.sizes if step >= self._strategy.protect[0] else 1
        if self._total:
            return 1
        raise ValueError(
            f"schedule has {len(self._sizes)} entries, but this run is at step {step} (from 0): it needs one a step"
        )

    def warning(self) -> str | None:
        entries, strategy = self._strategy.sizes, self._strategy
        if strategy.stretch or not isinstance(entries, tuple) or not 0 < self._total < len(entries):
            return None
        return f"the schedule is for {len(entries)} steps, this run has {self._total}: its last entries are not used"


def _stretched(sizes: Sequence[int], total: int) -> list[int]:
    """As large a share of each stretch, in a run of `total` steps; a last step of scale 1 stays one.

    The first stretch has a step at least: another might begin with a skip.
    """
    runs = [(size, len(list(group))) for size, group in groupby(sizes)]
    most = total - (sizes[-1] == 1)
    made: list[int] = []
    ahead = 0
    for size, count in runs[:-1]:
        ahead += count
        rounded = round(ahead * total / len(sizes))  # where it ends: errors don't add up
        end = min(max(1, rounded), most)
        made += [size] * (end - len(made))
    return made + [runs[-1][0]] * (total - len(made))
