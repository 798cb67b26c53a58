"""`Forecast`: fewer model calls; the sampler goes through the steps between them with a forecast output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import checks
from .base import Policy
from .clock import StepTimes
from .sized import Sized

TARGETS = ("run", "exact")
MOST_GROWTH = 4.0


@dataclass(frozen=True, repr=False)
class Forecast(Sized):
    """Compute some of the steps that the pipeline asks for, and forecast the others (see `ForecastScheduler`).

    It works with every pipeline whose scheduler is a flow-matching sampler, without an adapter.

    Args:
        calls: how many steps call the model, 1 at least, and 2 for a line; or
        speedup: steps / speedup of them do. Exactly one of the two.
        target: "run": the picture that all steps would give; "exact": the sample of the ODE.
        growth: how fast the gaps between computed steps grow, 1 (evenly spread) to 4.
        slope: in [0, 1], how far a forecast follows the line through the last two outputs; with few calls through the
            last two predicted samples, 0 in the last gap.
        corrector: in [0, 1], how much of a forecast's error is taken back at the next computed step.
        sizes: a strategy, int or list for the computed steps; None: all at scale 1.

    growth, slope and corrector: None chooses them from calls, steps and target.

    Raises:
        TypeError, ValueError: a bad value, by name.
    """

    calls: int | None = None
    speedup: float | None = None
    target: str = "run"
    growth: float | None = None
    slope: float | None = None
    corrector: float | None = None
    sizes: Any = None

    def __post_init__(self) -> None:
        if (self.calls is None) == (self.speedup is None):
            raise ValueError(
                f"Forecast needs either calls or speedup, got calls={self.calls!r}, speedup={self.speedup!r}"
            )

        def share(name: str, least: float, most: float) -> float | None:
            value = getattr(self, name)
            return None if value is None else checks.number(name, value, least, most)

        self._set(
            calls=None if self.calls is None else checks.whole("calls", self.calls),
            speedup=None
            if self.speedup is None
            else checks.number("speedup", self.speedup, 1.0, finite=True),
            target=checks.one_of("target", self.target, TARGETS),
            growth=share("growth", 1.0, MOST_GROWTH),
            slope=share("slope", 0.0, 1.0),
            corrector=share("corrector", 0.0, 1.0),
            sizes=self._inner(),
        )

    @property
    def sampler(self) -> dict[str, Any]:
        """The arguments of `ForecastScheduler.from_scheduler`."""
        names = ("calls", "speedup", "target", "growth", "slope", "corrector")
        return {name: getattr(self, name) for name in names}

    @property
    def changes_calls(self) -> bool:
        """Whether computed steps may be at larger patches."""
        return self.sizes is not None

    @property
    def target_speedup(self) -> float | None:
        """Times the speed of a full run, where that is given."""
        return self.speedup

    @property
    def fixed(self) -> bool:
        """Whether the scale of every step is known before the run."""
        return self.computed.fixed

    def start(self, times: StepTimes) -> Policy:
        return self.computed.start(times)

    def start_sample(self, times: StepTimes) -> Policy:
        return self.computed.start_sample(times)

    def computed_scales(self, steps: int) -> list[int] | None:
        return self.computed.computed_scales(self._calls_of(steps))

    def check_split(self) -> None:
        if self.sizes is None:
            raise ValueError(
                f"batch='split': {self!r} computes the same steps at scale 1 for all samples: leave batch out, or give "
                "it sizes that follow the scores"
            )
        self.computed.check_split()

    def words(self, steps: int) -> str:
        calls = f"{self.calls}" if self.calls is not None else f"1 of {self.speedup:.3g}"
        given = {"growth": self.growth, "slope": self.slope, "corrector": self.corrector}
        shown = ", ".join(f"{name} {value:.3g}" for name, value in given.items() if value is not None)
        sizes = (
            "" if self.sizes is None else f"; the computed ones: {self.sizes.words(self._calls_of(steps))}"
        )
        return f"{steps} steps, {calls} computed, the others forecast{f' ({shown})' if shown else ''}{sizes}"

    def _calls_of(self, steps: int) -> int:
        """How many of `steps` call the model."""
        return int(steps / self.speedup + 1e-9) if self.calls is None else self.calls
