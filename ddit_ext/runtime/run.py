"""`RunState`: all that one run of a patched pipeline owns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ..coarse.levels import RunLevel, RunLevels
from ..reports.report import RunRecord
from ..strategies import SKIP, Policy, StepTimes, Strategy
from .denoisers import Part
from .history import View, of_one_size
from .input_change import InputChange
from .residual_cache import ResidualCache
from .sampler_run import Run
from .step_clock import Marks, StepClock

Scores = list[list[float]] | None

SILENT = 3
"""The first steps of a run have no score: a third difference takes four latents."""


class Signal(NamedTuple):
    """Scores [sample][scale], or [sample][0] for the input, and whether each sample's count."""

    scores: Scores = None
    usable: Sequence[bool] = ()


class Decision(NamedTuple):
    """The scale of a step; SKIP for one that is not computed.

    scale: of the batch; the finest where samples differ. taken: each sample's, where they may differ. alone: what
    each sample alone would have taken, where the policy says so.
    """

    scale: int
    taken: list[int] | None = None
    alone: list[int] | None = None


class StepChoice(NamedTuple):
    """What was decided for a step, and from what. changes: of the model's input, where they were asked for."""

    changes: Scores
    signal: Signal
    decision: Decision


class RunState:
    """The policies of a run, what it keeps from step to step, and what it writes down.

    Attributes:
        record: the report's data.
        residuals: what skipped steps add.
        sizes: scales of the step under way: one for all samples, or one a sample.
        clock: of its steps. started, ended: its marks at the begin of the step under way, and at the end of the
            sampler's last step.
    """

    def __init__(
        self,
        strategy: Strategy,
        split: bool,
        times: StepTimes,
        record: RunRecord,
        warn: Callable[[str], None],
        marks: Marks,
    ) -> None:
        self._strategy, self._split, self._times, self._warn = strategy, split, times, warn
        self.record = record
        self.residuals = ResidualCache()
        self._inputs = InputChange()
        # One; in a split batch from the first signal one a sample.
        self._policies: list[Policy] = [strategy.start(times)]
        self._total = 0
        self._costs: dict[int, float] = {}
        self._levels = RunLevels([])
        self._view: View | None = None  # of the last scores
        self.clock = StepClock(marks)
        self.sizes = [1]
        self.started: Any = None
        self.ended: Any = None

    def begin(self, total: int, costs: dict[int, float], key: Any) -> None:
        """A run of `total` steps (0: unknown) begins.

        costs: {scale: arithmetic of a step in full-size steps}. key: must be the same for step times to hold.

        Raises:
            ValueError: a run that the strategy can't serve.
        """
        self._total, self._costs = total, costs
        self._strategy.check_length(total)
        self._times.begin_run(key)
        (policy,) = self._policies
        policy.estimate(costs)
        policy.begin(total)
        text = policy.warning()
        if text is not None:
            self._warn(text)
        if self._strategy.source == "latents" and 0 < total < SILENT + 2:
            self._warn(
                f"no signal: a run of {total} steps is too short for a strategy that looks at scores, which has none "
                f"before step {SILENT} (from 0); use a fixed schedule"
            )

    def choose(self, run: Run, part: Part, arguments: dict[str, Any]) -> StepChoice:
        """The scale of a step, by what the strategy asks for; to be called once a step."""
        changes = None
        if self._strategy.compares_input:
            changes = self._change(part, arguments).scores
            if self._policies[0].skip(run.index, changes):
                return StepChoice(changes, Signal(), Decision(SKIP))
        signal = Signal()
        if self._strategy.source == "input":
            signal = self._change(part, arguments)
        elif self._strategy.source == "latents":
            signal = self._score(run, part, arguments)
        return StepChoice(changes, signal, self._decide(run.index, signal))

    def clear(self) -> None:
        """Free what only a run under way needs of its steps."""
        self._levels = RunLevels([])
        self.residuals.clear()
        self._inputs.clear()

    def level(self, run: Run) -> RunLevel:
        """The noise level of the step under way, as the sampler has it."""
        if self._levels.sigmas != run.levels:  # the first step, or a sampler that has said where it entered
            self._levels = RunLevels(run.levels)
        return RunLevel(self._levels, run.index)

    def observe(self, wait: bool = False) -> None:
        """Tell the policies of steps that are over, as far as their times are known; wait: of all of them."""
        for step in self.clock.read(wait):
            for policy in self._policies:
                policy.observe(step)

    def ask(self, run: Run) -> None:
        """After a sampler's step: begin to compute the scores of the next one, which its first call will want.

        So a GPU is at it while the pipeline comes to that call, and the answer is on its way.
        """
        strategy = self._strategy
        over = run.total and run.done >= run.total
        if strategy.source != "latents" or strategy.compares_input or self._view is None or over:
            return
        if not run.history.ready or not any(self._usable(run, run.done)):
            return
        with suppress(ValueError, RuntimeError):  # raised again where the scores are wanted
            run.history.ask(self._view, list(strategy.scales), strategy.quantile)

    def _decide(self, step: int, signal: Signal) -> Decision:
        scores, usable = signal
        if not self._split:
            (policy,) = self._policies
            scale = policy.decide(step, scores if all(usable) else None)
            return Decision(scale, alone=list(policy.per_sample) or None)
        if scores and len(self._policies) != len(scores):
            self._policies = [self._caught_up(step) for _ in scores]
        if len(self._policies) == 1 and not scores:
            return Decision(self._policies[0].decide(step, None))
        taken = [
            policy.decide(step, [scores[i]] if scores and usable[i] else None)
            for i, policy in enumerate(self._policies)
        ]
        return Decision(min(taken), taken=taken)

    def _caught_up(self, step: int) -> Policy:
        """A sample's own policy; up to the first signal all samples were alike."""
        policy = self._strategy.start_sample(self._times)
        policy.estimate(self._costs)
        policy.begin(self._total)
        for earlier in range(step):
            policy.decide(earlier, None)
        return policy

    def _change(self, part: Part, arguments: dict[str, Any]) -> Signal:
        """Changes of the input; none where a skipped step would have nothing to use again."""
        try:
            changes = self._inputs.step(part, arguments)
        except ValueError as error:
            self._warn(f"no signal: {error}")
            return Signal()
        if changes is None or (self._strategy.skips and not self.residuals.ready(part)):
            return Signal()
        return Signal([[change] for change in changes], [True] * len(changes))

    def _score(self, run: Run, part: Part, arguments: dict[str, Any]) -> Signal:
        """Scores of the latents; none where there are none or none would count."""
        if not run.history.ready:
            return Signal()
        usable = self._usable(run, run.index)
        if not any(usable):
            return Signal(None, usable)
        view = self._view = part.family.signal_view(arguments)
        try:
            scores = run.history.scores(view, list(self._strategy.scales), self._strategy.quantile)
        except ValueError as error:
            self._warn(f"no signal: {error}")
            return Signal()
        self.observe()  # a GPU has done all that was before the scores
        return Signal(scores, usable)

    def _usable(self, run: Run, step: int) -> list[bool]:
        """For each sample: whether the scores of a step count."""
        samples = run.history.shape[0]
        if not self._strategy.holds:
            return [True] * samples
        return of_one_size(run.sizes, range(step - SILENT, step), samples)
