"""The closed loop: candidates are run, the promising ones on every prompt, and what is too slow is made faster."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..fidelity import psnr
from ..strategies import SKIP
from . import forecasting, plan, skipping
from .choices import Choice, cost
from .dynamic import budgets, by_threshold, faster_dynamic
from .measure import Measured, Meter, times_faster
from .pictures import first_frames
from .preset import Candidate

TOLERANCE = 0.05
"""A measured speed counts as the target from this share below it. Steps are whole: at three times the speed of 28 steps
one more or less is a tenth of the speed, so that half of that is as near as a choice can be expected to come."""

FINALISTS = 2
"""So many fixed choices with coarse steps are run on every prompt, beside fewer steps and the best one by scores."""

FORECAST_FINALISTS = 3
"""And so many that forecast steps: they differ by less than prompts do."""

FEWEST_TIMES = 3
"""A finalist is timed at least so often, on the same calls again where there are fewer."""

ROUNDS = 4
"""A finalist that is too slow is made faster at most so often."""


@dataclass
class Full:
    """The run that everything is compared with. seconds: {scale: one step's}; idle: a skipped one's, None where it is
    not known; corrects: whether forecast steps can be corrected with this sampler."""

    steps: int  # num_inference_steps
    runs: list[Measured | None]  # one a call, once they were needed
    seconds: Mapping[int, float]
    target: float
    scores: list[list[float]] | None = None  # [step][scale] of a run at p, once they were needed
    changes: skipping.Changes | None = None  # of the input, likewise
    idle: float | None = None
    corrects: bool = False

    @property
    def few(self) -> bool:
        """Whether the model was made for so few steps that they stay."""
        return self.steps <= plan.FEW_STEP_MODEL

    @property
    def costs(self) -> dict[int, float]:
        """{scale: one step's}, and with SKIP that of a skipped one."""
        return {SKIP: self.idle or 0.0, **self.seconds}

    @property
    def enough(self) -> float:
        """The least speed that counts as the target; of one next to 1, what is nearer to it than to 1."""
        return max(self.target * (1 - TOLERANCE), (1 + self.target) / 2)

    @property
    def afford(self) -> float:
        """Seconds of a run that is just fast enough, if it does as many steps as it is asked for."""
        return self.steps * self.seconds[1] / self.enough

    def done(self, steps: int) -> int:
        """How many of so many steps a run does, or one less: img2img does fewer than it is asked for."""
        first = self.runs[0]
        assert first is not None
        return steps * len(first.steps) // self.steps

    def speed(self, choice: Choice) -> float:
        """Predicted by the step costs."""
        return self.steps * self.seconds[1] / cost(choice, self.costs)

    def reached(self, speed: float) -> bool:
        return speed >= self.enough


@dataclass
class Search:
    """Everything that was tried, by choice."""

    meter: Meter
    full: Full
    tried: dict[str, Candidate] = field(default_factory=dict)
    runs: dict[str, Measured] = field(default_factory=dict)  # each one's on the first call, without pictures
    pairs: dict[str, list[np.ndarray]] = field(default_factory=dict)  # PSNR, one array a call
    shown: dict[str, list[np.ndarray]] = field(
        default_factory=dict
    )  # of finalists, as in pictures.first_frames

    def go(self) -> list[Candidate]:
        """The finalists that were measured on every call."""
        fixed = self._fixed()
        fixed.sort(key=lambda candidate: -candidate.psnr)
        finalists = [candidate.choice for candidate in fixed[:FINALISTS]]
        if not self.full.few:
            dynamic = self._dynamic(finalists)
            dynamic.sort(key=lambda candidate: (not candidate.reached, -candidate.psnr))
            finalists += [candidate.choice for candidate in dynamic[:1]]
        forecast = forecasting.by_forecast(self.full, self.screen)
        finalists += [candidate.choice for candidate in self._narrowed(forecast, FORECAST_FINALISTS)]
        fewer = plan.fewer_steps(self.full.steps, self.full.enough)
        finalists += [fewer] if fewer else []
        return self.finals(finalists)

    def _fixed(self) -> list[Candidate]:
        """Some numbers of steps; then, of the best so far, other orders, other sizes, a few steps more and fewer."""
        full = self.full
        arguments = full.steps, full.seconds, full.enough
        tried = [self.screen(choice) for choice in plan.lengths(*arguments)]
        for variants in (plan.orders, plan.mixes, plan.neighbours) if tried else ():
            best = max(tried, key=lambda candidate: candidate.psnr).choice
            new = [choice for choice in variants(best, *arguments) if repr(choice) not in self.tried]
            tried += [self.screen(choice) for choice in new]
        return tried

    def _dynamic(self, fixed: Sequence[Choice]) -> list[Candidate]:
        """Budgets at the full number of steps and at that of the best fixed choice; thresholds at the better one's; all
        steps of which some are skipped."""
        tried = [self.screen(choice) for choice in budgets(self.meter, self.full, fixed)]
        if tried:
            best = max(tried, key=lambda candidate: (candidate.reached, candidate.psnr))
            found = by_threshold(self.meter, self.full, best.choice.steps)
            tried += [self.screen(found)] if found is not None else []
        return tried + skipping.by_change(self.meter, self.full, self.screened)

    def screen(self, choice: Choice) -> Candidate:
        """One run on the first call; its speed by the step costs of the full run."""
        reference = self._reference(0)
        done, pairs = self._compared(0, choice, reference)
        own = done.fine_seconds if choice.fixed else None
        speed = len(reference.steps) * (own or self.full.seconds[1]) / done.seconds
        return self._note(choice, [speed], done, [pairs])

    def _narrowed(self, screened: Sequence[Candidate], count: int) -> list[Candidate]:
        """The closest, by successive halving (Jamieson and Talwalkar, arXiv 1502.07943): half of what is left goes on to
        twice as many further calls, until `count` are left or every call was used."""
        left = sorted(screened, key=lambda candidate: -candidate.psnr)
        used, more, calls = 1, 2, len(self.meter.calls)
        while used < calls and len(left := left[: max(count, math.ceil(len(left) / 2))]) > count:
            further = range(used, min(used + more, calls))
            for place, candidate in enumerate(left):
                choice = candidate.choice
                pairs = [self._compared(number, choice, self._reference(number))[1] for number in further]
                known = self.pairs[repr(choice)] + pairs
                left[place] = self._note(choice, [candidate.speed], self.runs[repr(choice)], known)
            left.sort(key=lambda candidate: -candidate.psnr)
            used, more = further.stop, 2 * more
        return left[:count]

    def _reference(self, number: int) -> Measured:
        """The full run of call `number`."""
        done = self.full.runs[number]
        if done is None:
            done = self.full.runs[number] = self.meter.run(number, 1, self.full.steps)
        return done

    def _compared(
        self, number: int, choice: Choice, reference: Measured, show: bool = False
    ) -> tuple[Measured, np.ndarray]:
        """Call `number` by a choice, and the PSNR of each of its pictures.

        Its pictures are not kept, since clips are large and choices many; show: of each sample one is.
        """
        schedule = choice.strategy(self.meter.scales, self.meter.quantile)
        done = self.meter.run(number, schedule, choice.steps)
        pairs = psnr(done.pictures, reference.pictures)
        if show:
            self.shown[repr(choice.ran(done.scales))] = [
                frame.copy() for frame in first_frames(done.pictures)
            ]
        return replace(done, pictures=None), pairs

    def screened(self, choice: Choice) -> tuple[Candidate, Measured]:
        """The same, and that run."""
        candidate = self.screen(choice)
        return candidate, self.runs[repr(candidate.choice)]

    def finals(self, choices: Sequence[Choice]) -> list[Candidate]:
        """Each choice on every call, timed three times at least, in turn with the full run; too slow ones again, faster."""
        ended: list[Candidate] = []
        waiting = list(choices)
        for _ in range(ROUNDS):
            measured = self._measure(waiting)
            ended += measured
            slow = [candidate for candidate in measured if not candidate.reached]
            waiting = [choice for candidate in slow if (choice := self._faster(candidate)) is not None]
            waiting = [choice for choice in waiting if choice not in [done.choice for done in ended]]
            if not waiting:
                break
        return ended

    def _measure(self, choices: Sequence[Choice]) -> list[Candidate]:
        speeds: list[list[float]] = [[] for _ in choices]
        pairs: list[list[np.ndarray]] = [[] for _ in choices]
        first: dict[int, Measured] = {}
        calls = len(self.meter.calls)
        for turn in range(calls * math.ceil(FEWEST_TIMES / calls) if choices else 0):
            number = turn % calls
            full = self.meter.run(number, 1, self.full.steps)
            self.full.runs[number] = full
            order = range(len(choices)) if turn % 2 == 0 else reversed(range(len(choices)))
            for index in order:
                choice = choices[index]
                done, close = self._compared(number, choice, full, show=turn == 0)
                alike = choice.fixed  # a policy that looks at scores takes its time at steps at p, too
                speeds[index].append(times_faster(done, full) if alike else full.seconds / done.seconds)
                if turn < calls:  # again it draws the same
                    pairs[index].append(close)
                if turn == 0:
                    first[index] = done
        return [
            self._note(choice, speeds[index], first[index], pairs[index])
            for index, choice in enumerate(choices)
        ]

    def _note(
        self,
        choice: Choice,
        speeds: Sequence[float],
        first: Measured,
        pairs: Sequence[np.ndarray],
    ) -> Candidate:
        """first: its run of the first call. pairs: PSNR, one array a call."""
        speed = statistics.median(speeds)
        choice = choice.ran(first.scales)
        candidate = Candidate(
            choice=choice,
            predicted_speed=self.full.speed(choice) if choice.fixed else None,
            speed=speed,
            psnr=float(np.concatenate(pairs).mean()),
            runs=len(pairs),
            reached=self.full.reached(speed),
        )
        self.tried[repr(choice)] = candidate
        self.runs[repr(choice)], self.pairs[repr(choice)] = first, list(pairs)
        return candidate

    def _faster(self, candidate: Candidate) -> Choice | None:
        choice = candidate.choice
        if choice.kind == "forecasts":
            return forecasting.faster(choice, self.full.costs)
        if choice.fixed:
            return plan.faster(choice, self.full.steps, self.full.seconds)
        if choice.kind == "skips":
            return skipping.faster(choice, self.runs[repr(choice)])
        return faster_dynamic(choice, self.full.enough / candidate.speed, len(self.runs[repr(choice)].steps))
