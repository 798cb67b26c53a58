"""Gaps of Euler steps in closed form: one update a model call (`ddit::ForecastPlan` has the numbers).

Euler steps whose outputs follow a line over sigma add up to S0 * v + S1 * d: nothing is done for the steps between.
"""

from __future__ import annotations

from typing import Any

import torch

from .history import History


def corrected(sample: torch.Tensor, history: History, slope: torch.Tensor) -> torch.Tensor:
    """`sample`, in float32, with the error of the last gap taken back, as the new slope of the outputs shows it."""
    last = history.call
    if last.correction == 0.0:
        return sample
    missed = slope if history.slope is None else slope - last.slope * history.slope
    return sample.float() + last.correction * history.where_unchanged(missed)


def crossed(
    output: torch.Tensor, sample: torch.Tensor, call: Any, slope: torch.Tensor | None
) -> torch.Tensor:
    """The sample at the end of a call's gap, from that at the call, in the dtype of `output`."""
    new = sample.float() + call.s0 * output.float()
    if slope is not None and call.forecast != 0.0:
        new += call.forecast * slope
    return new.to(output.dtype)


class EulerGaps:
    """The updates of one run; `base` is a FlowMatchEulerDiscreteScheduler that holds all levels."""

    def __init__(self, base: Any) -> None:
        self._base = base

    def take_over(self, other: EulerGaps) -> None:
        """Continue another's run; nothing is kept between calls."""

    def correct(self, sample: torch.Tensor, history: History, slope: torch.Tensor) -> torch.Tensor:
        """As :func:`corrected`."""
        return corrected(sample, history, slope)

    def cross(
        self,
        output: torch.Tensor,
        sample: torch.Tensor,
        call: Any,
        level: int,
        slope: torch.Tensor | None,
        extra: dict,
    ) -> torch.Tensor:
        """The sample at the next computed level. level: of this call, in the base's list."""
        base = self._base
        base._step_index = level
        if call.levels == 1 and (call.forecast == 0.0 or slope is None):
            return base.step(output, base.timesteps[level], sample, return_dict=False, **extra)[0]
        base._step_index = level + call.levels
        return crossed(output, sample, call, slope)
