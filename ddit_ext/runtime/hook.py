"""What happens when a patched transformer is called: which step it is, its sizes, the call itself.

A pipeline with two transformers (Wan 2.2) has them on both, with one schedule, history and report.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..modules.swap import Changes
from ..policies import SKIP, FixedSchedule
from ..reports.report import RunRecord, StepRecord
from .calls import SizedCall
from .corrector import Corrector, fitting
from .denoisers import Part
from .patched_call import PatchedCall, install
from .policy import Decider, Decision, Scores
from .reuse import BlockReuse
from .sampler_watch import Run, SamplerWatch
from .signals import Signal, Signals
from .timed import Timed

if TYPE_CHECKING:
    from ..calibration.match import RunCheck
    from ..families import Family


Choice = tuple[Scores, Scores, list[bool], Decision]
"""Of a step: changes of the input (of a stacked policy), scores, for each sample whether they count, sizes."""


class PatchHook:
    """What patch() installs: it owns the parts (family and weights), decisions, sampler watch and report."""

    def __init__(
        self,
        pipe: Any,
        parts: Sequence[Part],
        decider: Decider,
        thresholds: tuple[float, ...],
        quantile: float,
        *,
        check: RunCheck | None = None,
        target_speedup: float | None = None,
        full_steps: int | None = None,
        forecast: float = 0.0,
        corrector: float = 0.0,
    ) -> None:
        self.parts = list(parts)
        self.part = parts[0]  # of the transformer that is called
        self.decider = decider
        self.scales = decider.scales
        self.thresholds = thresholds
        self.reuse = BlockReuse(forecast) if decider.skips else None
        self.signals = Signals(decider, quantile, self._remark)
        self.inputs = self.signals.inputs
        self.corrector = Corrector(corrector) if corrector else None
        from_sampler = decider.needs_signal and decider.source != "input"
        self.watch = SamplerWatch(pipe, from_sampler, self._stepped, decider.source, decider.order)
        self.check = check
        self.target_speedup = target_speedup
        self.full_steps = full_steps
        self.record: RunRecord | None = None
        self.now: Callable[[], float] = time.perf_counter
        self._sizes = [1]  # of the step under way: one for all samples, or one a sample
        self.lock = threading.RLock()  # a call changes the model: one at a time
        self._started = 0.0  # of the step under way
        self._ended = 0.0  # the last sampler step
        self._entries: list[PatchedCall] = []

    @property
    def family(self) -> Family:
        """Of the transformer that is called."""
        return self.part.family

    def install(self) -> None:
        """Come between each transformer, or what torch.compile made of it (then outside of the graph), and its callers."""
        for part in self.parts:
            self._entries += install(self, part)

    def remove(self) -> None:
        """Everything as it was found. A call under way in another thread ends first."""
        with self.lock:
            for entry in self._entries:
                entry.remove()
            self._entries = []
            self.watch.remove()
            self._forget()
            for part in self.parts:
                part.caches.drop()
                part.adapter = None  # a handle that is kept for its report keeps no weights
                part.family.low_rank.clear()

    def begin_call(
        self, changes: Changes, part: Part, args: tuple, kwargs: dict[str, Any]
    ) -> SizedCall | None:
        """How a call is to be made; None: as it is. changes: what is undone after the call."""
        self.part = part
        arguments = self.family.bind(args, kwargs)
        seen = self.family.seen(arguments)
        if seen is None:
            return None  # the transformer itself says what is wrong
        run, new = self.watch.look(*seen, self.family)
        if new:
            try:
                self._begin_step(run, arguments)
            except BaseException:
                self.watch.drop()
                raise
        if self._sizes != [SKIP]:
            return SizedCall(changes, part, run, arguments, self._sizes, self.reuse)
        assert self.reuse is not None
        skipped = self.reuse.has(part, run.repeats)
        if not skipped:
            self._remark(
                f"step {run.index} was skipped, but its call {run.repeats} (from 0) had nothing to use again and was "
                "computed: the last computed step had fewer calls"
            )
        return SizedCall(changes, part, run, arguments, [self.reuse.scale], self.reuse, skipped)

    def clock(self) -> float:
        """The step under way has lasted until now, which is returned."""
        now = self.now()
        if self.watch.run is not None and self.record is not None and self.record.steps:
            self.record.steps[-1].seconds = now - self._started
        return now

    def _begin_step(self, run: Run, arguments: dict[str, Any]) -> None:
        # From the second step on all of the loop counts, also what runs before the transformer, such as a ControlNet.
        started = self._ended if run.index > 0 and run.sampled else self.now()
        rows = self.family.latents(arguments).shape[0]
        if run.index == 0 or self.record is None:
            self._begin_run(run, arguments)
        changes, scores, usable, decision = self._choose(run, arguments)
        if self.reuse is not None:
            self.reuse.level = run.level
        if decision.scale == SKIP:
            decision = self._skip(run, decision)
        elif self.reuse is not None:
            self._compute(decision.scale)
        self._sizes = decision.taken or [decision.scale]
        run.sizes[run.index] = decision.taken or decision.scale
        self._started = started
        for scale in set(self._sizes):
            self.record.tokens_at[scale] = 0 if scale == SKIP else self.family.tokens(arguments, scale)
        tokens = [self.record.tokens_at[scale] for scale in self._sizes]
        self.record.steps.append(
            StepRecord(
                index=run.index,
                noise_level=run.level,
                scores=scores,
                changes=[change for (change,) in changes] if changes else None,
                scale=decision.scale,
                scales=decision.taken or decision.alone or [decision.scale] * (len(usable) or rows),
                tokens=tokens[0] if len(set(tokens)) == 1 else sum(tokens) / len(tokens),
            )
        )

    def _choose(self, run: Run, arguments: dict[str, Any]) -> Choice:
        """A step's; of several ranks with one transformer the first chooses for all.

        Their latents may differ by a rounding, their clocks do: with sizes of their own they would wait for each other.
        """

        def choose() -> Choice:
            changes = None
            if self.decider.stacked:
                changes, usable = self.signals.of_input(self.part, arguments, self.reuse)
                if self.decider.skipped(run.index, changes):
                    return changes, None, usable, Decision(SKIP)
            scores, usable = self._signal(run, arguments)
            return changes, scores, usable, self.decider.decide(run.index, scores, usable)

        ranks = self.family.ranks
        alike = ranks is None or isinstance(self.decider.policy, FixedSchedule)
        return choose() if alike else ranks.agreed(choose)

    def _skip(self, run: Run, decision: Decision) -> Decision:
        """The same decision, or to compute at size 1 where there is nothing to use again."""
        assert self.reuse is not None
        if self.reuse.ready(self.part):
            return decision
        self._remark(
            f"step {run.index} was computed: the schedule skips it, but there was nothing to use again"
        )
        self._compute(1)
        return Decision(1, alone=decision.alone)

    def _compute(self, scale: int) -> None:
        """A step that is computed begins, of a schedule that skips some."""
        assert self.reuse is not None
        if self.corrector is not None and not self.reuse.ready(self.part):
            self.corrector.clear()  # no line leads from another transformer's output to this one's
        run = self.watch.run
        if self.watch.corrector is not None and run is not None and run.index > 0 and not run.sampled:
            self._remark("nothing is corrected: the pipeline's sampler takes no part in this run")
        self.reuse.begin_step(self.part, scale)

    def _forget(self) -> None:
        """Free what only a run under way needs of its steps."""
        for kept in (self.reuse, self.inputs, self.corrector):
            if kept is not None:
                kept.clear()

    def _signal(self, run: Run, arguments: dict[str, Any]) -> Signal:
        """Of the policy's source."""
        if self.decider.source == "input" and self.inputs is not None:
            return self.signals.of_input(self.part, arguments, self.reuse)
        return self.signals.of_history(run, self.part, arguments)

    def _begin_run(self, run: Run, arguments: dict[str, Any]) -> None:
        self._forget()
        text, token_cost = self.family.block_cost(arguments)
        self.record = RunRecord(
            scales=self.scales,
            thresholds=self.thresholds,
            dynamic=self.decider.needs_signal,
            source=self.decider.source if self.decider.needs_signal else None,
            skips=self.decider.skips,
            stacked=self.decider.stacked,
            token_cost=token_cost,
            text_tokens=text,
            fine_tokens=self.family.tokens(arguments, 1),
            grid=self._grid(arguments),
            target_speedup=self.target_speedup,
            full_steps=self.full_steps,
            policy=repr(self.decider.policy),
            batch="split" if self.decider.split else "finest",
        )
        if self.check is not None:
            samples = self.family.latents(arguments).shape[0]
            for difference in self.check.differences(
                self.family.transformer, run.scheduler, run.total, self.record.grid, samples
            ):
                self._remark(difference)
        if self.decider.needs_signal and self.family.ranks is not None:  # any size may come
            for scale in self.scales[1:]:
                self.family.check_ranks(self.family.grid(arguments), scale)
        if isinstance(self.decider.policy, Timed):
            tokens = {scale: self.family.tokens(arguments, scale) for scale in self.scales}
            self.decider.policy.estimate(self.record.costs(tokens), self.family.latents(arguments).shape)
        self.decider.begin(run.total)
        for part in self.parts:
            part.family.low_rank.begin_run(part.family.transformer, self._remark)
        if getattr(self.decider.policy, "remark", None):
            self._remark(self.decider.policy.remark)
        self.signals.begin_run(run.total)
        if self.corrector is not None:  # a preset only warns of another sampler
            self.watch.corrector = fitting(
                self.corrector, run.scheduler, self._remark if self.check else None
            )

    def _grid(self, arguments: dict[str, Any]) -> tuple[int, int, int] | None:
        """Frames, rows and columns of base tokens; None where the positions are no grid."""
        try:
            grid = self.family.grid(arguments)
        except (TypeError, ValueError):
            return None
        return grid.frames, grid.rows, grid.columns

    def _remark(self, text: str) -> None:
        if text not in self.record.warnings:
            self.record.warnings.append(text)
            warnings.warn(f"ddit_ext: {text}", stacklevel=2)

    def _stepped(self, run: Run) -> None:
        """After a sampler step."""
        if run.finished:
            self._forget()
            for part in self.parts:
                part.caches.drop()
        if run.index >= 0:
            self._ended = self.clock()
            if isinstance(self.decider.policy, Timed) and self.record is not None:
                done = self.record.steps[-1]
                self.decider.policy.stepped(done.scale, done.seconds)
