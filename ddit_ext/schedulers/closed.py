"""Gaps in closed form: one update a model call (`ddit::ForecastPlan` has the numbers).

Steps whose outputs, or the ends that they point to, follow a line (over sigma, or for few calls over the logarithm of
signal to noise) add up: nothing is done for those between.
"""

from __future__ import annotations

from typing import Any

import torch

from .bases import dtype_of_step, in_closed_form
from .history import History


def missed(history: History, slope: torch.Tensor) -> torch.Tensor | None:
    """The error of the last gap, as the new slope shows it; None where nothing of it is taken back."""
    last = history.call
    if last.correction == 0.0:
        return None
    bent = slope if history.slope is None else slope - last.slope * history.slope
    return last.correction * history.where_unchanged(bent)


def crossed(
    output: torch.Tensor,
    sample: torch.Tensor,
    call: Any,
    slope: torch.Tensor | None,
    correction: torch.Tensor | None,
) -> torch.Tensor:
    """The sample at the end of a call's gap, from that at the call, float32."""
    new = sample.float() + call.s0 * output.float()
    if correction is not None:
        new += call.keep * correction
    if slope is not None and call.forecast != 0.0:
        new += call.forecast * slope
    return new


class ClosedGaps:
    """The updates of one run; `base` holds all levels, and takes a single Euler step itself where nothing is added."""

    def __init__(self, base: Any) -> None:
        self.base, self._euler = base, in_closed_form(base)

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
        """The sample at the next computed level.

        level: of this call, in the base's list. slope: from `history` to this call; None where there is none.
        """
        base = self.base
        correction = None if slope is None else missed(history, slope)
        if (
            self._euler
            and call.levels == 1
            and correction is None
            and (slope is None or call.forecast == 0.0)
        ):
            base._step_index = level
            return base.step(output, base.timesteps[level], sample, return_dict=False, **extra)[0]
        base._step_index = level + call.levels
        return crossed(output, sample, call, slope, correction).to(dtype_of_step(base, output, sample))
