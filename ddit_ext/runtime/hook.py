"""The order of things when a patched transformer is called: which step it is, what is decided, how the call is made."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..modules.swap import Changes
from ..reports.report import RunRecord, StepRecord
from ..strategies import SKIP, StepTimes, Strategy
from .base_hook import Hook
from .calls import SizedCall
from .denoisers import Part
from .forecast_sampler import ForecastSampler
from .run import Decision, RunState, StepChoice
from .run_check import RunCheck
from .sampler_watch import Run, SamplerWatch

if TYPE_CHECKING:
    from ..families import Family


class PatchHook(Hook):
    """The patch of a strategy that changes calls. A pipeline with two transformers (Wan 2.2) has it on both."""

    def __init__(
        self,
        pipe: Any,
        parts: Sequence[Part],
        strategy: Strategy,
        *,
        split: bool = False,
        sampler: ForecastSampler | None = None,
        check: RunCheck | None = None,
    ) -> None:
        super().__init__(sampler)
        self.parts = list(parts)
        self.part = parts[0]  # of the transformer that is called
        self.strategy = strategy
        self.check = check
        self.lock = threading.RLock()  # a call changes the model: one at a time
        self.watch = SamplerWatch(pipe, strategy.source == "latents", self._stepped)
        self.state: RunState | None = None
        self._split = split
        self._times = StepTimes()

    @property
    def record(self) -> RunRecord | None:
        """The report's data of the run under way, or of the last one."""
        return None if self.state is None else self.state.record

    @property
    def family(self) -> Family:
        """What is known of the transformer that is called."""
        return self.part.family

    def install(self) -> None:
        """Come between each transformer and its callers."""
        self.enter(self.parts)

    def remove(self) -> None:
        """Everything as it was found. A call under way in another thread ends first."""
        with self.lock:
            self.leave()
            self.watch.remove()
            if self.state is not None:
                self.state.clear()
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
        sizes = self.state.sizes
        if not self.strategy.skips:
            return SizedCall(changes, part, run, arguments, sizes)
        residuals = self.state.residuals
        if sizes != [SKIP]:
            return SizedCall(changes, part, run, arguments, sizes, residuals)
        skipped = residuals.has(part, run.repeats, seen[0].shape[0])
        if not skipped:
            self.warn(
                f"step {run.index} was skipped, but its call {run.repeats} (from 0) had nothing to use again and was "
                "computed: the last computed step had fewer calls, or rows in them"
            )
        return SizedCall(changes, part, run, arguments, [residuals.scale], residuals, skipped)

    def clock(self) -> float:
        """The step under way has lasted until now, which is returned."""
        now = self.now()
        if self.watch.run is not None and self.state is not None and self.state.record.steps:
            self.state.record.steps[-1].seconds = now - self.state.started
        return now

    def _begin_step(self, run: Run, arguments: dict[str, Any]) -> None:
        # From the second step on all of the loop counts, also what runs before the transformer, such as a ControlNet.
        started = self.state.ended if run.index > 0 and run.sampled else self.now()
        rows = self.family.latents(arguments).shape[0]
        if run.index == 0 or self.state is None:
            self._begin_run(run, arguments)
        state, record = self.state, self.state.record
        changes, (scores, usable), decision = self._choose(run, arguments)
        if self.strategy.skips:
            decision = self._skip_or_compute(run, decision)
        state.sizes = decision.taken or [decision.scale]
        run.sizes[run.index] = decision.taken or decision.scale
        state.started = started
        for scale in set(state.sizes):
            record.tokens_at[scale] = 0 if scale == SKIP else self.family.tokens(arguments, scale)
        tokens = [record.tokens_at[scale] for scale in state.sizes]
        record.steps.append(
            StepRecord(
                index=len(record.steps),
                noise_level=run.level,
                scores=scores,
                changes=[change for (change,) in changes] if changes else None,
                scale=decision.scale,
                scales=decision.taken or decision.alone or [decision.scale] * (len(usable) or rows),
                tokens=tokens[0] if len(set(tokens)) == 1 else sum(tokens) / len(tokens),
            )
        )

    def _choose(self, run: Run, arguments: dict[str, Any]) -> StepChoice:
        """What a step takes. With context parallelism the first rank chooses for all.

        Their latents may differ by a rounding, their clocks do: with scales of their own they would wait for each other.
        """

        def choose() -> StepChoice:
            return self.state.choose(run, self.part, arguments)

        ranks = self.family.ranks
        return choose() if ranks is None or self.strategy.fixed else ranks.agreed(choose)

    def _skip_or_compute(self, run: Run, decision: Decision) -> Decision:
        """The same decision, or to compute at scale 1 where there is nothing to use again."""
        residuals = self.state.residuals
        if decision.scale == SKIP and not residuals.ready(self.part):
            self.warn(
                f"step {run.index} was computed: the schedule skips it, but there was nothing to use again"
            )
            decision = Decision(1, alone=decision.alone)
        if decision.scale != SKIP:
            residuals.begin_step(self.part, decision.scale)
        return decision

    def _begin_run(self, run: Run, arguments: dict[str, Any]) -> None:
        if self.state is not None:
            self.state.clear()
        record = RunRecord.of(self.strategy, split=self._split)
        record.count_tokens(self.family, arguments)
        used = [part.adapter for part in self.parts if part.adapter is not None]
        record.untrained = not all(adapter.training_record for adapter in used)
        self.state = RunState(self.strategy, self._split, self._times, record, self.warn)
        if self.check is not None:
            record.target_speedup, record.full_steps = self.check.target_speedup, self.check.full_steps
            total = run.total if self.sampler is None else self.sampler.total
            samples = self.family.latents(arguments).shape[0]
            for text in self.check.differences(
                self.family.transformer, run.scheduler, total, record.grid, samples
            ):
                self.warn(text)
        if not self.strategy.fixed and self.family.ranks is not None:  # any scale may come
            for scale in self.strategy.coarse:
                self.family.check_ranks(self.family.grid(arguments), scale)
        scales = (1,) if record.grid is None else self.strategy.scales
        tokens = {scale: self.family.tokens(arguments, scale) for scale in scales}
        self.state.begin(run.total, record.costs(tokens), self.family.latents(arguments).shape)
        for part in self.parts:
            part.family.low_rank.begin_run(part.family.transformer, self.warn)

    def _stepped(self, run: Run) -> None:
        """After a sampler step."""
        if run.finished:
            if self.state is not None:
                self.state.clear()
            for part in self.parts:
                part.caches.drop()
        if run.index >= 0 and self.state is not None:
            self.state.ended = self.clock()
            self.state.observe()
            self.add_forecast_steps()
