"""The order of things when a patched transformer is called: which step it is, what is decided, how the call is made."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

from ..modules.swap import Changes
from ..reports.report import RunRecord, StepRecord
from ..strategies import SKIP, StepTimes, Strategy
from .base_hook import Hook
from .calls import SizedCall
from .denoisers import Part
from .forecast_sampler import ForecastSampler
from .run import Decision, RunState, StepChoice
from .run_check import RunCheck
from .sampler_run import Run
from .sampler_watch import SamplerWatch


class PatchHook(Hook):
    """The patch of a strategy that changes calls. A pipeline with two transformers (Wan 2.2) has it on both."""

    def __init__(
        self,
        pipe: Any,
        parts: Sequence[Part],
        strategy: Strategy,
        sampler: ForecastSampler | None,
        check: RunCheck | None,
        split: bool,
    ) -> None:
        super().__init__(parts, strategy, sampler, check)
        self.lock = threading.RLock()  # a call changes the model: one at a time
        modules = [part.module for part in parts]
        signal = strategy.source == "latents"
        self.watch = SamplerWatch(pipe, signal, self._stepped, self._ended, modules, exchanged=self.exchanged)
        self._split = split
        self._times = StepTimes()

    def remove(self) -> None:
        """As `Hook.remove`. A call under way in another thread ends first."""
        with self.lock:
            parts = self.parts
            super().remove()
            for part in parts:
                part.caches.drop()
                part.family.low_rank.clear()

    def begin_call(
        self, changes: Changes, part: Part, args: tuple, kwargs: dict[str, Any]
    ) -> SizedCall | None:
        """How a call is to be made; None: as it is. changes: what is undone after the call."""
        arguments = part.family.bind(args, kwargs)
        seen = part.family.seen(arguments)
        if seen is None:
            return None  # the transformer itself says what is wrong
        run, new = self.watch.look(*seen, part.family)
        if run is None:
            return None
        if not self.forecasts(run.scheduler):
            self.watch.drop(run)
            return None
        if new:
            try:
                self._begin_step(run, part, arguments)
            except BaseException:
                self.watch.drop(run)
                raise
        sizes = run.state.sizes
        if not self.strategy.skips:
            return SizedCall(changes, part, run, arguments, sizes)
        residuals = run.state.residuals
        if sizes != [SKIP]:
            return SizedCall(changes, part, run, arguments, sizes, residuals)
        skipped = residuals.has(part, run.repeats, seen[0].shape[0])
        if not skipped:
            self.warn(
                run.state.record,
                f"step {run.index} was skipped, but its call {run.repeats} (from 0) had nothing to use again and was "
                "computed: the last computed step had fewer calls, or rows in them",
            )
        return SizedCall(changes, part, run, arguments, [residuals.scale], residuals, skipped)

    def end_call(self, call: SizedCall, output: Any) -> None:
        """A call has been made."""
        call.run.seen_alive("output", output)
        self._clock(call.run, over=False)

    def _clock(self, run: Run, over: bool) -> Any:
        """The step under way has lasted until now, whose mark is returned."""
        state, now = run.state, self.marks.mark()
        if state.record.steps:
            state.clock.lasted(state.record.steps[-1], state.started, now, over)
            state.observe()
        return now

    def _begin_step(self, run: Run, part: Part, arguments: dict[str, Any]) -> None:
        if run.state is None:
            self._begin_run(run, part, arguments)
        state, record = run.state, run.state.record
        # From the second step on all of the loop counts, also what runs before the transformer, such as a ControlNet.
        started = state.ended if run.index > 0 and run.sampled else self.marks.mark()
        rows = part.family.latents(arguments).shape[0]
        changes, (scores, usable), decision = self._choose(run, part, arguments)
        if self.strategy.skips:
            decision = self._skip_or_compute(run, part, decision)
        state.sizes = decision.taken or [decision.scale]
        run.sizes[run.index] = decision.taken or decision.scale
        state.started = started
        for scale in set(state.sizes):
            record.tokens_at[scale] = 0 if scale == SKIP else part.family.tokens(arguments, scale)
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

    def _choose(self, run: Run, part: Part, arguments: dict[str, Any]) -> StepChoice:
        """What a step takes. With context parallelism the first rank chooses for all.

        Their latents may differ by a rounding, their clocks do: with scales of their own they would wait for each other.
        """
        choose, ranks = partial(run.state.choose, run, part, arguments), part.family.ranks
        return choose() if ranks is None or self.strategy.fixed else ranks.agreed(choose)

    def _skip_or_compute(self, run: Run, part: Part, decision: Decision) -> Decision:
        """The same decision, or to compute at scale 1 where there is nothing to use again."""
        residuals = run.state.residuals
        if decision.scale == SKIP and not residuals.ready(part):
            self.warn(
                run.state.record,
                f"step {run.index} was computed: the schedule skips it, but there was nothing to use again",
            )
            decision = Decision(1, alone=decision.alone)
        if decision.scale != SKIP:
            residuals.begin_step(part, decision.scale)
        return decision

    def _begin_run(self, run: Run, part: Part, arguments: dict[str, Any]) -> None:
        family = part.family
        if self.strategy.coarse:
            family.refuse(arguments)
            for each in self.parts:
                each.check_weights()
        record = RunRecord.of(self.strategy, split=self._split)
        record.count_tokens(family, arguments)
        used = [each.adapter for each in self.parts if each.adapter is not None]
        record.untrained = not all(adapter.training_record for adapter in used)
        warn = partial(self.warn, record)
        self.record = record
        run.state = RunState(self.strategy, self._split, self._times, record, warn, self.marks)
        shape = family.latents(arguments).shape
        self.compare(record, family.transformer, run.scheduler, run.total, shape[0])
        if not self.strategy.fixed and family.ranks is not None:  # any scale may come
            for scale in self.strategy.coarse:
                family.check_ranks(family.grid(arguments), scale)
        scales = (1,) if record.grid is None else self.strategy.scales
        tokens = {scale: family.tokens(arguments, scale) for scale in scales}
        run.state.begin(run.total, record.costs(tokens), shape)
        for each in self.parts:
            each.family.low_rank.begin_run(each.family.transformer, warn)

    def _stepped(self, run: Run) -> None:
        """After a sampler step."""
        state = run.state
        state.ended = self._clock(run, over=True)
        state.ask(run)
        if run.total and run.done >= run.total:
            state.observe(wait=True)
        self.add_forecast_steps(run.scheduler, run.state.record)

    def _ended(self, run: Run) -> None:
        """A run is over, however it ended: what only its steps needed is freed."""
        if run.state is not None:
            run.state.clear()
        for part in self.parts:
            part.caches.end(run)
