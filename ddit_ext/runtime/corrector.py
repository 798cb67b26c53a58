"""What forecast steps got wrong, taken back once the next computed step has shown it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .euler import check_euler


class Corrector:
    """For one run of Euler steps: what the steps since the last computed one did, and what they should have done.

    A forecast looks ahead along a line through two computed steps. At the next computed step the model's output is known on
    both sides of the gap, and the line between these two is closer. With Euler steps, x + Δσ_j v_j, the latent is wrong
    by the sum over the gap of Δσ_j (line_j - v_j), which is added after the step that ends it. No further call of the
    model: the output of that step is the one at the uncorrected latent, as in the PEC mode of predictor-corrector solvers.

    share: 0 to 1, of what is found wrong.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self._level = 0.0  # of the last computed step
        self._output: Tensor | None = None  # of the model there
        self._moved: Tensor | None = None  # Σ Δσ_j v_j over the gap so far, float32
        self._length = self._moment = 0.0  # Σ Δσ_j and Σ Δσ_j σ_j

    def clear(self) -> None:
        """Free all that is kept."""
        self._output = self._moved = None
        self._length = self._moment = 0.0

    def step(self, skipped: bool, output: Tensor, level: float, length: float) -> Tensor | None:
        """A step from σ = `level` over Δσ = `length` with the model's `output`; what is to be added to the latent after it.

        skipped: whether the output was forecast.
        """
        if skipped:
            if self._output is not None:
                part = length * output.detach().float()
                self._moved = part if self._moved is None else self._moved + part
                self._length += length
                self._moment += length * level
            return None
        correction = None
        if self._moved is not None and self._output is not None and level != self._level:
            # The line's weight at the new step, summed over the gap; the rest of the gap is the old step's.
            new = (self._moment - self._level * self._length) / (level - self._level)
            line = (self._length - new) * self._output.float() + new * output.float()
            correction = self.share * (line - self._moved)
        self.clear()
        self._level = level
        self._output = output.detach().clone()  # the model may write its next output there
        return correction


def add(correction: Tensor, result: object) -> None:
    """Into the latent that a sampler's step has just made."""
    latent = result[0] if isinstance(result, tuple) else result.prev_sample
    latent.copy_(latent.float() + correction)


def fitting(corrector: Corrector, sampler: Any, remark: Callable[[str], None] | None) -> Corrector | None:
    """The corrector, or where the sampler's steps are no Euler ones ValueError; with `remark` that is told, and None."""
    try:
        check_euler(sampler, f"corrector={corrector.share:g}")
    except ValueError as error:
        if remark is None:
            raise
        remark(f"the preset's forecasts are not corrected: {error}")
        return None
    return corrector
