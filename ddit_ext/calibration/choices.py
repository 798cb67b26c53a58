"""`Choice`: how many steps a run has and how their sizes are chosen; plain data that knows its words and its policy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..strategies import SKIP, Budget, Fixed, Forecast, Strategy, TeaCache, Threshold
from .schedules import computed_sizes
from .values import number, numbers, pairs, whole, within

KINDS = ("coarse_first", "fine_ends", "thresholds", "budget", "skips", "forecasts")

MOST_GROWTH = 4
"""Of the gaps between computed steps, as `policies.growing_gaps` takes it."""


@dataclass(frozen=True)
class Choice:
    """Steps and sizes of a run. Make one with the functions below.

    Attributes:
        steps: num_inference_steps.
        kind: one of KINDS.
        settings: plain data, by kind:
            coarse_first: {"first": [[scale, steps], …]}, coarsest first; every later step is at p.
            fine_ends: {"before": steps at p, "coarse": [[scale, steps], …]}, the finest of them first; every later step
                is at p, one at least.
            thresholds: {"thresholds": [one per coarse scale], "warmup_scale": scale}; steps whose difference mixes
                sizes keep the last size, and a run never goes back to a larger one.
            budget: {"costs": [one per coarse scale, of a step at p], "target": speed, "reference": [[score a scale] a
                step]}; each step's threshold follows from what is left of the time.
            skips: {"threshold", "coefficients", "protect_first", "protect_last"}, as in TeaCachePolicy, and "skipped":
                about how many steps that skips. Those that are computed are at p.
            forecasts: {"computed": steps that are, spread by `policies.growing_gaps` with "growth", "forecast" of the
                others and "corrector" as for `patch`, "coarse": [[scale, steps], …] of the computed ones, the finest first;
                the others of these are at p.
            The last step of all of them, or the last that is computed, is at p: what a coarse one gets wrong is in the
            picture.
    """

    steps: int
    kind: str
    settings: Mapping[str, Any]

    def scales(self) -> tuple[int, ...]:
        """The sizes of a fixed schedule, ascending; of one that follows the scores, 1 alone."""
        return tuple(sorted({1, *self.coarse}))

    @property
    def fine(self) -> bool:
        """Whether every step is at p."""
        return self.fixed and not self.coarse and self.kind != "forecasts"

    @property
    def fixed(self) -> bool:
        """Whether the sizes are known before the run."""
        return self.kind in ("coarse_first", "fine_ends", "forecasts")

    @property
    def may_be_coarse(self) -> bool:
        """Whether a step may be at another size than p, and need an adapter."""
        return bool(self.coarse) or not (self.fixed or self.kind == "skips")

    @property
    def computed(self) -> int:
        """How many steps of a fixed schedule are not skipped."""
        return self.settings.get("computed", self.steps)

    @property
    def forecast(self) -> float:
        """How skipped steps follow from computed ones, as `patch` takes it; 0: the last one again."""
        return self.settings.get("forecast", 0.0)

    @property
    def corrector(self) -> float:
        """How far skipped steps are corrected, as `patch` takes it."""
        return self.settings.get("corrector", 0.0)

    @property
    def before(self) -> int:
        """Steps at p before the first coarse one of a fixed schedule."""
        return self.settings.get("before", 0)

    @property
    def coarse(self) -> dict[int, int]:
        """{scale: steps} of the coarse steps of a fixed schedule, in their order."""
        return dict(self.settings.get("first") or self.settings.get("coarse", ()))

    def words(self) -> str:
        """The choice in a few words."""
        if self.kind == "budget":
            return f"{self.steps} steps, sizes by scores, for {self.settings['target']:.3g} times the speed of these"
        if self.kind == "thresholds":
            shown = "/".join(f"{value:.2g}" for value in self.settings["thresholds"])
            return f"{self.steps} steps, sizes by scores against {shown}"
        if self.kind == "skips":
            return (
                f"{self.steps} steps, of which about {self.settings['skipped']} are skipped when the input has changed "
                f"by less than {self.settings['threshold']:#.2g}"
            )
        if self.kind == "forecasts":
            fine = self.computed - sum(self.coarse.values())
            coarse = "".join(f" and {count} at {scale}p" for scale, count in self.coarse.items())
            corrected = f", corrector {self.corrector:.3g}" if self.corrector else ""
            return (
                f"{self.steps} steps, {fine} computed at p{coarse}, the others forecast ({self.forecast:.3g} of the line, "
                f"growth {self.settings['growth']:.3g}{corrected})"
            )
        if self.fine:
            return f"{self.steps} steps at p"
        parts = ", ".join(f"{count} at {scale}p" for scale, count in self.coarse.items())
        if self.kind == "coarse_first":
            return f"{self.steps} steps: first {parts}, then p"
        after = self.steps - self.before - sum(self.coarse.values())
        return f"{self.steps} steps: {self.before} at p, {parts}, then {after} at p"

    def ran(self, sizes: Sequence[int]) -> Choice:
        """The same, knowing from the sizes of a run how many steps it skips."""
        if self.kind != "skips":
            return self
        return replace(self, settings={**self.settings, "skipped": sizes.count(0)})

    def strategy(self, scales: Sequence[int], quantile: float) -> Strategy:
        """What `ddit_ext.patch(schedule=…)` is given."""
        settings = self.settings
        if self.kind == "forecasts":
            sizes = computed_sizes(self.computed, list(self.coarse.items()))
            return Forecast(
                calls=self.computed,
                growth=settings["growth"],
                slope=self.forecast,
                corrector=self.corrector,
                sizes=Fixed(sizes, stretch=True) if self.coarse else None,
            )
        if self.fine:
            return Fixed(1)
        if self.fixed:
            sizes = [1] * self.before + [scale for scale, count in self.coarse.items() for _ in range(count)]
            return Fixed(sizes + [1] * (self.steps - len(sizes)), stretch=True)
        if self.kind == "skips":
            return TeaCache(
                settings["threshold"],
                coefficients=settings["coefficients"],
                protect=(settings["protect_first"], settings["protect_last"]),
            )
        if self.kind == "budget":
            return Budget(
                settings["target"],
                tuple(scales),
                quantile,
                costs=settings["costs"],
                reference=settings["reference"],
            )
        return Threshold(
            settings["thresholds"],
            tuple(scales),
            quantile,
            protect=(0, 1),
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
        whole("steps", steps)
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
        if not isinstance(settings, dict):
            raise TypeError(f"settings must be dict, got {type(settings).__name__}")
        if kind == "coarse_first":
            return coarse_first(steps, dict(pairs(settings["first"])))
        if kind == "fine_ends":
            return fine_ends(steps, whole("before", settings["before"]), dict(pairs(settings["coarse"])))
        if kind == "thresholds":
            return thresholds(steps, settings["thresholds"], settings["warmup_scale"])
        if kind == "skips":
            return skips(steps, **settings)
        if kind == "forecasts":
            return forecasts(steps, **{**settings, "coarse": dict(pairs(settings["coarse"]))})
        return budget(steps, settings["costs"], settings["target"], settings["reference"])


def coarse_first(steps: int, counts: Mapping[int, int]) -> Choice:
    """So many steps at each coarse scale, the coarsest first, the rest at p."""
    first = [[scale, counts[scale]] for scale in sorted(counts, reverse=True) if counts[scale]]
    bad = [scale for scale, count in first if scale < 2 or count < 0]
    if bad or sum(count for _, count in first) > steps:
        raise ValueError(f"first: expected coarse scales and at most {steps} steps of them, got {first}")
    return Choice(steps, "coarse_first", {"first": first})


def fine_ends(steps: int, before: int, counts: Mapping[int, int]) -> Choice:
    """So many steps at p, then so many at each coarse scale, the finest first, the rest at p.

    What begins coarse, or has no coarse step, is a coarse_first.
    """
    begins = coarse_first(steps, counts)
    coarse = sorted(begins.settings["first"])
    if not before or not coarse:
        return begins
    after = steps - before - sum(count for _, count in coarse)
    if before < 0 or after < 1:
        raise ValueError(
            f"before: expected steps at p that leave one of {steps} after {coarse}, got {before}"
        )
    return Choice(steps, "fine_ends", {"before": before, "coarse": coarse})


def thresholds(steps: int, values: Sequence[float], warmup_scale: int) -> Choice:
    """Sizes by scores against thresholds; the steps before the first signal are at `warmup_scale`."""
    return Choice(
        steps,
        "thresholds",
        {"thresholds": numbers("thresholds", values), "warmup_scale": whole("warmup_scale", warmup_scale)},
    )


def budget(
    steps: int, costs: Sequence[float], target: float, reference: Sequence[Sequence[float]] = ()
) -> Choice:
    """Sizes by scores within a share of the time that `steps` steps at p take."""
    rows = [numbers("reference", row) for row in reference]
    settings = {"costs": numbers("costs", costs), "target": number("target", target, 0), "reference": rows}
    return Choice(steps, "budget", settings)


def skips(
    steps: int,
    threshold: float,
    skipped: int = 0,
    coefficients: Sequence[float] = (1.0, 0.0),
    protect_first: int = 1,
    protect_last: int = 1,
) -> Choice:
    """Steps skipped by TeaCache's rule, which come to about `skipped`; the others at p."""
    settings = {
        "threshold": number("threshold", threshold, 0),
        "coefficients": numbers("coefficients", coefficients, least=-math.inf),
        "protect_first": whole("protect_first", protect_first, 0),
        "protect_last": whole("protect_last", protect_last, 0),
        "skipped": whole("skipped", skipped, 0),
    }
    return Choice(steps, "skips", settings)


def forecasts(
    steps: int,
    computed: int,
    forecast: float,
    growth: float,
    coarse: Mapping[int, int] | None = None,
    corrector: float = 0.0,
) -> Choice:
    """So many steps computed, with gaps that grow, and the rest forecast, and corrected.

    Of the computed ones so many at each scale of `coarse`, the finest first, the rest at p: the first and last at least.
    """
    sizes = sorted(coarse_first(steps, coarse or {}).settings["first"])
    forecast, corrector = within("forecast", forecast, 0, 1), within("corrector", corrector, 0, 1)
    growth = within("growth", growth, 1, MOST_GROWTH)
    fine = whole("computed", computed) - sum(count for _, count in sizes)
    if computed >= steps or fine < 2:
        raise ValueError(
            f"computed: expected less than {steps} steps, and two at p beside {sizes}, got {computed}"
        )
    settings = {"computed": computed, "forecast": forecast, "growth": growth, "corrector": corrector}
    return Choice(steps, "forecasts", settings | {"coarse": sizes})


def cost(choice: Choice, costs: Mapping[int, float]) -> float:
    """Of a fixed choice, in units of `costs` {scale: one step's}; 0 in the place of a scale: of a skipped one."""
    coarse = choice.coarse
    fine, skipped = choice.computed - sum(coarse.values()), choice.steps - choice.computed
    some = sum(count * costs[scale] for scale, count in coarse.items())
    return fine * costs[1] + some + (skipped * costs[SKIP] if skipped else 0.0)
