"""What a step's decision looks at: scores of latents or outputs, and how much the model's input has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .denoisers import Part
from .history import of_one_size
from .policy import Decider, Scores
from .reuse import BlockReuse, InputChange
from .sampler_watch import Run

Signal = tuple[Scores, list[bool]]
"""[sample][scale], or one number a sample for the input; and for each sample whether they count."""


class Signals:
    """Of one patched pipeline. inputs: what is kept of the input from step to step, where the policy asks for it."""

    def __init__(self, decider: Decider, quantile: float, remark: Callable[[str], None]) -> None:
        self.decider = decider
        self.quantile = quantile
        self.inputs = InputChange() if decider.compares_input else None
        self._scales = list(decider.scales)
        self._remark = remark

    def begin_run(self, total: int) -> None:
        """A remark where a run of `total` steps (0: unknown) is too short for a signal."""
        first = self.decider.order + (self.decider.source == "outputs")
        from_history = self.decider.needs_signal and self.decider.source != "input"
        if from_history and 0 < total < first + 2:
            self._remark(
                f"no signal: a run of {total} steps is too short for a dynamic schedule, which has none "
                f"before step {first} (from 0); use a fixed schedule"
            )

    def of_input(self, part: Part, arguments: dict[str, Any], reuse: BlockReuse | None) -> Signal:
        """To be asked once a step, whatever becomes of it."""
        assert self.inputs is not None
        return self.inputs.scores(part, arguments, reuse, self._remark)

    def of_history(self, run: Run, part: Part, arguments: dict[str, Any]) -> Signal:
        """No scores where there are none or none would count."""
        if self.decider.source == "outputs" and run.index > 0 and not run.sampled:
            self._remark(
                "no signal: source='outputs' needs the pipeline's sampler, which takes no part in this run"
            )
        if not run.history.ready:
            return None, []
        samples = run.history.shape[0]
        usable = [True] * samples
        if self.decider.holds:
            differences = run.history.order + (self.decider.source == "outputs")
            usable = of_one_size(run.sizes, range(run.index - differences, run.index), samples)
            if not any(usable):
                return None, usable
        view = part.family.signal_view(arguments)
        try:
            return run.history.scores(view, self._scales, self.quantile), usable
        except ValueError as error:
            self._remark(f"no signal: {error}")
            return None, []
