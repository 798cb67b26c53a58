"""The two hooks on a pipeline's transformer: before a call choose its patch size, after it put all back.

A pipeline with two transformers (Wan 2.2) has them on both, with one schedule, history and report.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from .parts import Part
from .policy import Policy
from .report import RunRecord, StepRecord
from .sampler import Run, SamplerWatch

FEWEST = 5
"""Steps of a run below which at most one has a signal."""


class PatchHook:
    """What patch() installs: it owns the parts (steering and weights), schedule, sampler watch and report."""

    def __init__(
        self,
        pipe: Any,
        parts: Sequence[Part],
        policy: Policy,
        scales: tuple[int, ...],
        thresholds: tuple[float, ...],
        quantile: float,
    ) -> None:
        self.parts = list(parts)
        self.steering = parts[0].steering  # of the transformer that is called
        self.policy = policy
        self.scales = scales
        self.thresholds = thresholds
        self.quantile = quantile
        self.watch = SamplerWatch(pipe, policy.needs_signal, self._stepped)
        self.record: RunRecord | None = None
        self._scale = 1
        self._started = 0.0
        self._call: ExitStack | None = None
        self._handles: list[Any] = []

    def install(self) -> None:
        """Hook each transformer, or what torch.compile made of it (then outside of the graph)."""
        for part in self.parts:
            self._handles += [
                part.module.register_forward_pre_hook(BeforeCall(self, part), with_kwargs=True),
                part.module.register_forward_hook(AfterCall(self), always_call=True),
            ]

    def remove(self) -> None:
        """Everything as it was found."""
        self.leave()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.watch.remove()
        self.parts = []  # a handle that is kept for its report keeps no weights

    def before(self, part: Part, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        """The rewritten arguments of a coarse call, None (nothing touched) for a call at size 1."""
        self.leave()  # a call that was interrupted from the keyboard has had no after-hook
        self.steering = part.steering
        arguments = self.steering.bind(args, kwargs)
        hidden_states, timestep = arguments.get("hidden_states"), arguments.get("timestep")
        if not isinstance(hidden_states, Tensor) or not isinstance(timestep, Tensor):
            return None  # the transformer itself says what is wrong
        run, new = self.watch.look(hidden_states, timestep, self.steering)
        if new:
            try:
                self._begin_step(run, arguments)
            except BaseException:
                self.watch.drop()
                raise
        if self._scale == 1:
            return None
        weights = part.adapter.weights(self._scale, hidden_states)
        transformer = self.steering.transformer
        if weights.lora and torch.is_grad_enabled() and transformer.gradient_checkpointing:
            raise NotImplementedError(
                "gradient checkpointing recomputes blocks after a patched call has ended: call transformer "
                f"and backward inside {type(self.steering).__name__}.coarse(), or use disable_gradient_checkpointing()"
            )
        sigma = self.steering.noise_level(arguments, run.noise_level)
        call = ExitStack()
        rewritten = call.enter_context(self.steering.coarse(arguments, weights, sigma))
        self._call = call
        return (), rewritten

    def leave(self) -> None:
        """End a coarse call: the transformer's own modules are back."""
        call, self._call = self._call, None
        if call is not None:
            call.close()

    def clock(self) -> None:
        """The step under way has lasted until now."""
        if self.watch.run is not None and self.record is not None and self.record.steps:
            self.record.steps[-1].seconds = time.perf_counter() - self._started

    def _begin_step(self, run: Run, arguments: dict[str, Any]) -> None:
        started = time.perf_counter()
        hidden_states = arguments["hidden_states"]
        if run.index == 0 or self.record is None:
            self._begin_run(run, arguments)
        scores = None
        if run.history.ready:
            view = self.steering.signal_view(arguments)
            try:
                scores = run.history.scores(view, self.scales, self.quantile)
            except ValueError as error:
                self._remark(f"no signal: {error}")
        decision = self.policy.decide(run.index, scores)
        self._scale = decision.scale
        samples = len(scores) if scores else hidden_states.shape[0]
        level = run.noise_level
        self._started = started
        self.record.steps.append(
            StepRecord(
                index=run.index,
                noise_level=run.told if level is None else level,
                scores=scores,
                scale=decision.scale,
                scales=decision.per_sample or [decision.scale] * samples,
                tokens=self.steering.tokens(arguments, decision.scale),
            )
        )

    def _begin_run(self, run: Run, arguments: dict[str, Any]) -> None:
        text, token_cost = self.steering.block_cost(arguments)
        self.record = RunRecord(
            scales=self.scales,
            thresholds=self.thresholds,
            dynamic=self.policy.needs_signal,
            width=self.steering.width,
            text_tokens=text,
            fine_tokens=self.steering.tokens(arguments, 1),
            token_cost=token_cost,
        )
        self.policy.begin(run.total)
        if self.policy.needs_signal and 0 < run.total < FEWEST:
            self._remark(
                f"no signal: a run of {run.total} steps is too short for a dynamic schedule, which has none "
                "in its first three steps; use a fixed schedule"
            )

    def _remark(self, text: str) -> None:
        if text not in self.record.warnings:
            self.record.warnings.append(text)
            warnings.warn(f"ddit_ext: {text}", stacklevel=2)

    def _stepped(self, run: Run) -> None:
        """After a sampler step."""
        self.leave()
        if run.index >= 0:
            self.clock()


outside_of_graphs = torch.compiler.disable(
    reason="ddit_ext chooses the patch size outside of compiled graphs"
)


class BeforeCall:
    """Forward pre-hook; a copied or pickled transformer gets one that does nothing."""

    def __init__(self, hook: PatchHook, part: Part) -> None:
        self.hook = hook
        self.part = part

    @outside_of_graphs
    def __call__(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        return self.hook.before(self.part, args, kwargs)

    def __reduce__(self) -> tuple:
        return _no_hook, ()


class AfterCall:
    """Forward hook, called after errors too; a copied or pickled transformer gets one that does nothing."""

    def __init__(self, hook: PatchHook) -> None:
        self.hook = hook

    @outside_of_graphs
    def __call__(self, module: nn.Module, args: tuple, output: Any) -> None:
        self.hook.leave()
        self.hook.clock()

    def __reduce__(self) -> tuple:
        return _no_hook, ()


def _nothing(*args: Any) -> None:
    """What remains of a hook in a copy of a patched transformer."""


def _no_hook() -> Any:
    return _nothing


def find_hook(module: nn.Module) -> PatchHook | None:
    """The patch on a transformer, or on the one inside a compiled one."""
    for candidate in (module, getattr(module, "_orig_mod", None)):
        for hook in getattr(candidate, "_forward_pre_hooks", {}).values():
            if isinstance(hook, BeforeCall):
                return hook.hook
    return None
