"""Gaps that the base sampler steps through: every level of the gap, with outputs forecast along a line over sigma.

UniPC, DPM-Solver++ and DEIS are more than a sum of outputs, so they take each level themselves. It is elementwise
work, done inside the call that ends a computed step.
"""

from __future__ import annotations

from typing import Any

import torch

from .._core import ForecastPlan
from .bases import dtype_of_step, is_method_of
from .history import History


class SteppedGaps:
    """The updates of one run; `base` is a multistep sampler that holds all levels."""

    def __init__(self, base: Any, plan: ForecastPlan) -> None:
        self.base = base
        self._corrector = plan.corrector
        self._whole = all(call.levels == 1 for call in plan.calls)
        self._gap: tuple[dict[str, Any], int, torch.Tensor, torch.Tensor] | None = None

    def step(
        self,
        output: torch.Tensor,
        sample: torch.Tensor,
        call: Any,
        level: int,
        history: History | None,
        slope: torch.Tensor | None,
        extra: dict,
    ) -> torch.Tensor:
        """As ClosedGaps.step."""
        base = self.base
        if self._whole:  # the base's own run, bit for bit
            base._step_index = level
            return base.step(output, base.timesteps[level], sample, return_dict=False, **extra)[0]
        x = sample if slope is None else self._corrected(sample, history, slope)
        base._step_index = level
        # A method of its own stays: a copy of the whole, made before the next call, has one bound to itself.
        state = {
            name: value for name, value in copied_lists(vars(base)).items() if not is_method_of(base, value)
        }
        new = self._walk(output, x, level, call.levels, slope, call.slope, extra)
        new = new.to(dtype_of_step(base, output, sample))
        # A loop may write the new sample over the one that came in.
        self._gap = (state, level, x.clone(), new) if call.levels > 1 else None
        return new

    def _corrected(self, sample: torch.Tensor, history: History, slope: torch.Tensor) -> torch.Tensor:
        """`sample` after the last gap is crossed again, with outputs between the two that the model has given."""
        if self._gap is None or self._corrector == 0.0:
            return sample
        state, level, before, after = self._gap
        vars(self.base).update(copied_lists(state))
        call = history.call
        again = self._walk(history.value, before, level, call.levels, slope, 1.0, {})
        moved = history.where_unchanged(again.float() - after.float())
        return (sample.float() + self._corrector * moved).to(sample.dtype)

    def _walk(
        self,
        output: torch.Tensor,
        sample: torch.Tensor,
        level: int,
        levels: int,
        slope: torch.Tensor | None,
        share: float,
        extra: dict,
    ) -> torch.Tensor:
        """In float32: UniPC of a higher order can't take outputs of several types."""
        base, x, v = self.base, sample.float(), output.float()
        for j in range(level, level + levels):
            along = share * float(base.sigmas[j] - base.sigmas[level])
            forecast = v if slope is None or along == 0.0 else v + along * slope
            x = base.step(forecast, base.timesteps[j], x, return_dict=False, **extra)[0]
        return x


def copied_lists(state: dict[str, Any]) -> dict[str, Any]:
    """A copy of a sampler's attributes; lists are copied, as samplers move their entries in place."""
    return {name: list(value) if isinstance(value, list) else value for name, value in state.items()}
