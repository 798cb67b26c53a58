"""The state of one run: where it is, what the last computed step left, and what was computed."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

from . import bases
from .closed import ClosedGaps
from .history import History, followed, kept, version_of
from .places import Places
from .through import SteppedGaps


@dataclass(frozen=True)
class ComputedStep:
    """One model call of a run.

    Attributes:
        index: of the step in the pipeline's own list, among all steps.
        sigma: noise level of the step.
        levels: steps that the call stands for: itself and the gap after it.
    """

    index: int
    sigma: float
    levels: int


class Run:
    """A run of the computed steps of `places`, with the sampler `base` for the levels.

    Attributes:
        index: of the next call in places.timesteps; None until the first call says where it is.
        computed: a ComputedStep for each call so far.
    """

    def __init__(self, base: Any, places: Places, index: int | None = None) -> None:
        self.places = places
        self.index = index
        self.computed: list[ComputedStep] = []
        self._shape: torch.Size | None = None
        self._forget(base)

    def takes(self, sample: torch.Tensor) -> bool:
        """Whether a sample can be of this run."""
        return self._shape in (None, sample.shape)

    def step(
        self, output: torch.Tensor, timestep: Any, sample: torch.Tensor, extra: dict[str, Any]
    ) -> torch.Tensor:
        """The sample at the next computed step, or at the end."""
        self._check_order(timestep)
        call = self.places.plan.calls[self.index - self.places.begin]
        level = self.places.levels[self.index]
        if extra.get("per_token_timesteps") is not None and call.levels > 1:
            raise ValueError(
                "ForecastScheduler: per_token_timesteps is not supported, as a gap would hold tokens of several noise "
                "levels. Use the pipeline's own sampler."
            )
        history, slope, value = self._history, None, followed(output, sample, call)
        if history is not None and history.compare(sample):
            slope = history.slope_to(value, call.sigma)
        new = self._gaps.step(output, sample, call, level, history, slope, extra)
        returned = kept(new)
        self._history = History(call, value, slope, returned, version_of(returned))
        self.index += 1
        self.computed.append(ComputedStep(level, call.sigma, call.levels))
        self._shape = new.shape
        if self.index == len(self.places.levels):
            self._forget(self._gaps.base)
        return new

    def copied(self, base: Any) -> Run:
        """A run of its own at the same place, with a copy of the sampler. Tensors are shared; none is changed."""
        made = copy.copy(self)
        made.computed, made._gaps = list(self.computed), copy.copy(self._gaps)
        made._gaps.base = base
        return made

    def _forget(self, base: Any) -> None:
        """Keep nothing of steps before: at the begin, and when the last is done."""
        self._history: History | None = None
        through = self.places.plan.line == "velocity" and not bases.in_closed_form(base)
        self._gaps = SteppedGaps(base, self.places.plan) if through else ClosedGaps(base)
        bases.forget_steps(base)

    def _check_order(self, timestep: Any) -> None:
        if self.index is None:
            self.index = max(entry_of(timestep, self.places.timesteps), self.places.begin)
        if self.index >= len(self.places.levels):
            raise RuntimeError(
                f"ForecastScheduler.step: the run's {len(self.computed)} calls are done. "
                "Call set_timesteps to begin another run."
            )
        distances = _distances(timestep, self.places.timesteps)
        if not distances[self.index] <= min(distances):  # the nearest: a pipeline may round its timesteps
            raise ValueError(
                f"ForecastScheduler.step: steps must come in order; expected timestep "
                f"{float(self.places.timesteps[self.index]):g} (entry {self.index}), got {_number(timestep):g}. "
                "Call set_timesteps to begin another run."
            )


def entry_of(timestep: Any, timesteps: torch.Tensor) -> int:
    """Which of `timesteps` a timestep is. ValueError where it is none of them."""
    entry = find_entry(timestep, timesteps)
    if entry is None:
        raise ValueError(
            f"ForecastScheduler.step: timestep must be one of scheduler.timesteps, {timesteps.tolist()}, "
            f"got {_number(timestep):g}."
        )
    return entry


def find_entry(timestep: Any, timesteps: torch.Tensor) -> int | None:
    """:func:`entry_of`, None where it is none of them."""
    distances = _distances(timestep, timesteps)
    nearest = distances.index(min(distances))
    # bfloat16 rounds by up to 0.4 %
    fits = not distances[nearest] or distances[nearest] <= 0.005 * max(1.0, abs(_number(timestep)))
    return nearest if fits else None


def _distances(timestep: Any, timesteps: torch.Tensor) -> list[float]:
    """How far a timestep is from each of `timesteps`; in entries, where it is one of the very tensor."""
    if shares_storage(timestep, timesteps):
        return [abs(entry - timestep.storage_offset()) for entry in range(len(timesteps))]
    value = _number(timestep)
    return [abs(entry - value) for entry in timesteps.tolist()]


def shares_storage(timestep: Any, timesteps: torch.Tensor) -> bool:
    """Whether a timestep is an entry of the very tensor: known without waiting for a GPU."""
    return (
        isinstance(timestep, torch.Tensor)
        and timestep.device == timesteps.device
        and timestep.untyped_storage().data_ptr() == timesteps.untyped_storage().data_ptr()
    )


def _number(timestep: Any) -> float:
    return float(timestep.flatten()[0]) if isinstance(timestep, torch.Tensor) else float(timestep)
