"""What a coarse step takes from its noise level alone: once a run for all of its steps, or for the samples of one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .scale_weights import ScaleWeights


class Levels(NamedTuple):
    """Rows of n noise levels: one a sample, or a single one for all samples."""

    input_scale: Tensor | None  # [n, 1 or C_in]: c, on conditions 1; None: 1 on all
    timestep: Tensor  # [n] σ'
    alpha: Tensor  # [n] α, corrected
    beta: Tensor  # [n] β, corrected
    gain: Tensor | None  # [n] g, corrected; None: it follows from each latent's own detail, by the next four
    gain_start: Tensor | None  # [n, 2], see `gain_lines`
    gain_slope: Tensor | None
    detail_start: Tensor | None  # [n], see `detail_line`
    detail_slope: Tensor | None
    bias: Tensor  # [n, D] of the embedding, the patch-size vector in it
    hidden: Tensor | None  # [n, hidden]: bias of the refinement's first layer

    def row(self, index: int) -> Levels:
        """One of the levels: views."""
        return Levels(*(None if each is None else each[index : index + 1] for each in self))


class RunLevels:
    """The noise levels of a run. What weights take from them is computed at the first step that asks, for all steps."""

    def __init__(self, sigmas: Sequence[float]) -> None:
        self.sigmas = sigmas
        self._made: WeakKeyDictionary[ScaleWeights, dict[tuple, Levels]] = WeakKeyDictionary()

    def row(
        self, index: int, weights: ScaleWeights, coefficients: int, device: torch.device, dtype: torch.dtype
    ) -> Levels:
        """The level of step `index`; the other arguments as in `ScaleWeights.levels`."""
        made = self._made.setdefault(weights, {})
        key = (coefficients, device, dtype)
        if key not in made:
            # Without a wait for the device: what is not pinned is copied before the call returns.
            sigma = torch.tensor(self.sigmas, dtype=torch.float32).to(device, non_blocking=True)
            made[key] = weights.levels(sigma, coefficients, dtype)
        return made[key].row(index)


class RunLevel(NamedTuple):
    """The noise level of one step of a run, the same for all samples."""

    run: RunLevels
    index: int
