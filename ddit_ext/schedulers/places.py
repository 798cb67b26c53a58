"""Where a run's computed steps lie in the pipeline's own list, also when img2img begins in the middle of it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch

from .._core import ForecastPlan
from .history import version_of


@dataclass(frozen=True)
class Places:
    """The computed steps of a run that begins at entry `begin` of `timesteps`.

    Attributes:
        levels: index in the sampler's full list, for each entry of `timesteps`; entries before `begin` are not run.
        plan: of the levels from levels[begin] on.
        timesteps, sigmas: what the pipeline sees; sigmas has one more, the end.
        version: count of in-place changes of sigmas.
    """

    begin: int
    levels: list[int]
    plan: ForecastPlan
    timesteps: torch.Tensor
    sigmas: torch.Tensor
    version: int | None

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, version=version_of(state["sigmas"]))  # a copied tensor counts anew

    @property
    def rewritten(self) -> bool:
        """Whether a pipeline wrote into `sigmas`: Cosmos 2 sets the end."""
        return version_of(self.sigmas) != self.version


@dataclass(frozen=True)
class Steps:
    """All steps of a run, as set_timesteps gave them.

    Attributes:
        base: the sampler that holds them.
        sigmas: noise levels and the end, as Python floats.
        calls: how many steps call the model in a run from the first step on.
        settings: target, growth, slope and corrector for ForecastPlan.
        counted: whether the pipeline counts all steps when it begins in the middle. Pipelines that pass sigmas or
            timesteps count the entries of `timesteps` instead.
    """

    base: Any
    sigmas: list[float]
    calls: int
    settings: dict[str, Any]
    counted: bool

    @property
    def entries(self) -> int:
        """How many entries the pipeline counts."""
        return len(self.sigmas) - 1 if self.counted else self.calls

    def places(self, begin: int) -> Places:
        """The places of a run that begins at entry `begin`, which leaves its share of the calls."""
        total = len(self.sigmas) - 1
        start = begin if self.counted else round(total * begin / self.calls)
        left = total - start
        if begin == 0:
            calls, before = self.calls, []
        elif self.counted:
            calls, before = max(min(2, left), round(self.calls * left / total)), list(range(begin))
        else:
            calls = self.calls - begin
            before = [round(total * entry / self.calls) for entry in range(begin)]
        plan = ForecastPlan(self.sigmas[start:], calls, **self.settings)
        levels = before + [start + step for step in plan.steps]
        timesteps, sigmas = self.base.timesteps[levels], self.base.sigmas
        with torch.inference_mode(False):  # changes of inference tensors are not counted
            sigmas = torch.cat([sigmas[levels], sigmas[-1:]])
        return Places(begin, levels, plan, timesteps, sigmas, version_of(sigmas))

    def ending_at(self, sigma: torch.Tensor) -> Steps:
        """The same steps with another end, as a pipeline wrote it into `sigmas` after set_timesteps.

        One that repeats the level of its last call there means the last of all levels, which that call may not be at.
        """
        end = min(float(sigma), self.sigmas[-2])
        self.base.sigmas = self.base.sigmas.clone()  # copies of the sampler share the old one
        self.base.sigmas[-1] = end
        return replace(self, sigmas=[*self.sigmas[:-1], end])


class Timesteps(torch.Tensor):
    """The timesteps of the computed steps. `timesteps[begin:]` gives the places of a run that begins there.

    img2img and inpainting pipelines cut the list by `strength`; the steps that are left then get places of their own.
    Once a run has begun, by set_begin_index or its first step, a cut is one of any tensor. A loop that looks ahead before
    takes `list(timesteps)[1:]`. Copies and pickles are plain tensors.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def of(scheduler: Any, values: torch.Tensor) -> Timesteps:
        """A view of `values` that asks `scheduler` for the places after a cut."""
        view = values.as_subclass(Timesteps)
        view.scheduler = scheduler
        return view

    def __getitem__(self, key: Any) -> torch.Tensor:
        cut = isinstance(key, slice) and key.start is not None and key.stop is None and key.step is None
        if cut and 0 <= key.start < self.scheduler.entries and self.scheduler.step_index is None:
            return self.scheduler.cut(key.start)
        return self._plain()[key]

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        return copy.deepcopy(self._plain(), memo)

    def __reduce_ex__(self, protocol: int) -> Any:
        return self._plain().__reduce_ex__(protocol)

    def _plain(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)
