"""The runs that everything is compared with, and what is known of the machine's speed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..strategies import Fixed, Forecast, Strategy
from .measure import Measure
from .runner import Measured, Runner, Setting

TOLERANCE = 0.05
"""A measured speed counts as the target from this share below it. Steps are whole: at three times the speed of 28 steps
one more or less is a tenth of the speed, so that half of that is as near as a strategy can be expected to come."""

FEW_STEP_MODEL = 8
"""Up to so many steps a model was distilled for them: their number stays, and there is next to no signal."""


@dataclass
class Reference:
    """One dense run a call, with every step computed; it serves all target speeds.

    Attributes:
        steps: num_inference_steps of the full run. target: "run" compares with the pipeline's own run, "exact" with
            one of as many calls that aims at the sample of the ODE.
        seconds: {scale: one step's}.
        speedup: times the speed that is asked for.
        scores: [step][scale] of a full-size run, once they were needed.
        measure: what pictures are compared by, beside PSNR; None: by PSNR alone.
    """

    runner: Runner
    steps: int
    target: str
    speedup: float
    seconds: Mapping[int, float] = field(default_factory=dict)
    scores: list[list[float]] | None = None
    measure: Measure | None = None
    runs: dict[int, Measured] = field(default_factory=dict)

    def run(self, number: int) -> Measured:
        """The dense run of call `number`."""
        if number not in self.runs:
            self.runs[number] = self.runner.run(
                number, Setting(self.steps, dense(self.target)), reference=True
            )
        return self.runs[number]

    @property
    def few(self) -> bool:
        """Whether the model was made for so few steps that they stay."""
        return self.steps <= FEW_STEP_MODEL

    @property
    def enough(self) -> float:
        """The least speed that counts as the target; for a target next to 1, what is nearer to it than to 1."""
        return max(self.speedup * (1 - TOLERANCE), (1 + self.speedup) / 2)

    def done(self, steps: int) -> int:
        """How many of so many steps a run does, or one less: img2img does fewer than it is asked for."""
        return steps * len(self.run(0).steps) // self.steps

    def speed(self, setting: Setting) -> float | None:
        """Predicted by the step costs; None where the run itself decides."""
        scales = setting.strategy.computed_scales(setting.steps)
        return None if scales is None else self.steps * self.seconds[1] / sum(self.seconds[s] for s in scales)

    def reached(self, speed: float) -> bool:
        """Whether a measured speed counts as the target."""
        return speed >= self.enough


def dense(target: str) -> Strategy:
    """What computes every step."""
    if target == "run":
        return Fixed(1)
    return Forecast(speedup=1, target="exact", slope=0.5, corrector=1.0)


def median_step(done: Measured) -> float:
    """Seconds of a full-size step of a dense run; its first step warms up."""
    return statistics.median(step["seconds"] for step in done.steps[1:] or done.steps)
