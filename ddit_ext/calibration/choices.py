"""`Choice`: how many steps a run has and how their sizes are chosen; plain data that knows its words and its policy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KINDS = ("coarse_first", "thresholds", "budget")


@dataclass(frozen=True)
class Choice:
    """Steps and sizes of a run. Make one with the functions below.

    Attributes:
        steps: num_inference_steps.
        kind: one of KINDS.
        settings: plain data, by kind:
            coarse_first: {"first": [[scale, steps], …]}, coarsest first; every later step is at p.
            thresholds: {"thresholds": [one per coarse scale], "warmup_scale": scale}; steps whose difference mixes
                sizes keep the last size, and a run never goes back to a larger one.
            budget: {"costs": [one per coarse scale, of a step at p], "target": speed, "reference": [[score a scale] a
                step]}; each step's threshold follows from what is left of the time.
            The last step of all of them is at p: what a coarse one gets wrong is in the picture.
    """

    steps: int
    kind: str
    settings: Mapping[str, Any]

    def scales(self) -> tuple[int, ...]:
        """The sizes of a fixed schedule, ascending; of one that follows the scores, 1 alone."""
        return tuple(sorted({1, *(scale for scale, _ in self.settings.get("first", ()))}))

    @property
    def fine(self) -> bool:
        """Whether every step is at p."""
        return self.kind == "coarse_first" and not self.settings["first"]

    @property
    def fixed(self) -> bool:
        """Whether the sizes are known before the run."""
        return self.kind == "coarse_first"

    def words(self) -> str:
        """The choice in a few words."""
        if self.kind == "budget":
            return f"{self.steps} steps, sizes by scores, for {self.settings['target']:.3g} times the speed of these"
        if self.kind == "thresholds":
            shown = "/".join(f"{value:.2g}" for value in self.settings["thresholds"])
            return f"{self.steps} steps, sizes by scores against {shown}"
        if self.fine:
            return f"{self.steps} steps at p"
        parts = [f"{count} at {scale}p" for scale, count in self.settings["first"]]
        return f"{self.steps} steps: first {', '.join(parts)}, then p"

    def schedule(self, scales: Sequence[int]) -> Any:
        """What `ddit_ext.patch(schedule=…)` is given."""
        if self.kind == "coarse_first":
            return 1 if self.fine else CoarseFirst(self.settings["first"])
        from .. import policies

        settings = self.settings
        if self.kind == "budget":
            return policies.BudgetPolicy(
                list(scales),
                settings["costs"],
                settings["target"],
                protect_last=1,
                reference=settings["reference"],
                mixed="hold",
            )
        return policies.PatchScheduler(
            list(scales),
            settings["thresholds"],
            protect_last=1,
            warmup_scale=settings["warmup_scale"],
            only_finer=True,
            mixed="hold",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"steps": self.steps, "kind": self.kind, "settings": dict(self.settings)}

    @classmethod
    def from_dict(cls, data: Any) -> Choice:
        """From :meth:`to_dict`; ValueError, TypeError or KeyError where that can't be."""
        steps, kind, settings = data["steps"], data["kind"], data["settings"]
        if type(steps) is not int or steps < 1:
            raise ValueError(f"steps must be a whole number of at least 1, got {steps!r}")
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
        if not isinstance(settings, dict):
            raise TypeError(f"settings must be dict, got {type(settings).__name__}")
        if kind == "coarse_first":
            return coarse_first(steps, dict(_pairs(settings["first"])))
        if kind == "thresholds":
            return thresholds(steps, settings["thresholds"], settings["warmup_scale"])
        return budget(steps, settings["costs"], settings["target"], settings["reference"])


class CoarseFirst:
    """Schedule: step -> scale, by stretches [[scale, steps], …]; every step after them is at 1."""

    def __init__(self, first: Sequence[Sequence[int]]) -> None:
        self._sizes = [scale for scale, count in first for _ in range(count)]

    def __call__(self, step: int) -> int:
        return self._sizes[step] if step < len(self._sizes) else 1

    def __repr__(self) -> str:
        return f"CoarseFirst({self._sizes})"


def coarse_first(steps: int, counts: Mapping[int, int]) -> Choice:
    """So many steps at each coarse scale, the coarsest first, the rest at p."""
    first = [[scale, counts[scale]] for scale in sorted(counts, reverse=True) if counts[scale]]
    bad = [scale for scale, count in first if scale < 2 or count < 0]
    if bad or sum(count for _, count in first) > steps:
        raise ValueError(f"first: expected coarse scales and at most {steps} steps of them, got {first}")
    return Choice(steps, "coarse_first", {"first": first})


def thresholds(steps: int, values: Sequence[float], warmup_scale: int) -> Choice:
    """Sizes by scores against thresholds; the steps before the first signal are at `warmup_scale`."""
    return Choice(
        steps,
        "thresholds",
        {"thresholds": _numbers("thresholds", values), "warmup_scale": _whole("warmup_scale", warmup_scale)},
    )


def budget(
    steps: int, costs: Sequence[float], target: float, reference: Sequence[Sequence[float]] = ()
) -> Choice:
    """Sizes by scores within a share of the time that `steps` steps at p take."""
    (target,) = _numbers("target", [target])
    rows = [_numbers("reference", row) for row in reference]
    settings = {"costs": _numbers("costs", costs), "target": target, "reference": rows}
    return Choice(steps, "budget", settings)


def cost(choice: Choice, costs: Mapping[int, float]) -> float:
    """Of a fixed choice, in units of `costs` {scale: one step's}."""
    coarse = sum(count for _, count in choice.settings["first"])
    return (choice.steps - coarse) * costs[1] + sum(n * costs[scale] for scale, n in choice.settings["first"])


def _pairs(first: Any) -> list[tuple[int, int]]:
    for pair in first:
        if len(pair) != 2:
            raise ValueError(f"first must hold pairs [scale, steps], got {pair!r}")
    return [(_whole("scale", scale), _whole("steps", count)) for scale, count in first]


def _whole(name: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value


def _numbers(name: str, values: Any) -> list[float]:
    for value in values:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
            or value < 0
        ):
            raise ValueError(f"{name} must hold numbers of at least 0, got {value!r}")
    return [float(value) for value in values]
