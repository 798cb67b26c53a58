"""`Threshold`: the paper's rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .._core import PatchScheduler
from . import checks
from .base import DEFAULT_QUANTILE, DEFAULT_SCALES, Native, Policy, Strategy
from .clock import StepTimes

MIXED = ("use", "hold")


@dataclass(frozen=True, repr=False)
class Threshold(Strategy):
    """Each step takes the largest scale whose score is below its threshold (DDiT, arXiv 2602.16968).

    The score is the `quantile` over patches of how much the latent's third difference varies. The first three
    steps have none and run at scale 1.

    Args:
        threshold: one number, or one per scale above 1.
        scales: patch sizes in base patches, 1 first, ascending.
        quantile: in [0, 1].
        protect: so many steps at the beginning and at the end stay at scale 1.
        warmup_scale: scale of the steps before the first score.
        only_finer: never back to a larger scale.
        mixed: "hold" keeps the last scale while the latents come from steps of two scales; "use" scores them.

    Raises:
        TypeError, ValueError: a bad value, by name.
    """

    threshold: float | Sequence[float] = 1e-3
    scales: Sequence[int] = DEFAULT_SCALES
    quantile: float = DEFAULT_QUANTILE
    protect: tuple[int, int] = (0, 0)
    warmup_scale: int = 1
    only_finer: bool = False
    mixed: str = "use"

    source = "latents"

    def __post_init__(self) -> None:
        scales = checks.scales("scales", self.scales)
        levels = checks.thresholds("threshold", self.threshold, len(scales) - 1)
        if not levels:  # scales=(1,)
            levels = checks.thresholds("threshold", self.threshold, 1)
        self._set(
            threshold=levels[0] if len(set(levels)) == 1 else levels,
            scales=scales,
            quantile=checks.number("quantile", self.quantile, 0.0, 1.0),
            protect=checks.protected("protect", self.protect),
            warmup_scale=checks.scale("warmup_scale", self.warmup_scale, scales),
            only_finer=bool(self.only_finer),
            mixed=checks.one_of("mixed", self.mixed, MIXED),
        )

    @property
    def thresholds(self) -> tuple[float, ...]:
        """One per scale above 1."""
        return checks.thresholds("threshold", self.threshold, len(self.scales) - 1)

    @property
    def holds(self) -> bool:
        """Whether scores of steps of two scales are left out."""
        return self.mixed == "hold"

    def start(self, times: StepTimes) -> Policy:
        return Native(
            PatchScheduler(
                self.scales,
                self.thresholds,
                *self.protect,
                warmup_scale=self.warmup_scale,
                only_finer=self.only_finer,
                mixed=self.mixed,
            )
        )

    def words(self, steps: int) -> str:
        shown = "/".join(f"{value:.2g}" for value in dict.fromkeys(self.thresholds))
        return f"{steps} steps, scales by scores against {shown}"
