"""Other samplers and published forecasts at any places of a run's own levels, for comparison with ForecastScheduler.

One class for all of them: the pipeline's own scheduler says which levels there are, `pick` which of them call the
model, a solver of diffusers takes the steps, and a rule may forecast the outputs of the levels between.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ddit_ext._core import ForecastPlan
from diffusers import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
SOLVERS: dict[str, Callable[[], Any]] = {
    "Euler": FlowMatchEulerDiscreteScheduler,
    "UniPC": lambda: UniPCMultistepScheduler(solver_order=2, **FLOW),
    "DPM-Solver++ 2M": lambda: DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", solver_order=2, **FLOW
    ),
    "DEIS": lambda: DEISMultistepScheduler(solver_order=2, **FLOW),
    "Heun": FlowMatchHeunDiscreteScheduler,
}


def growing(total: int, calls: int, growth: float) -> list[int]:
    """Indices of `calls` of `total` steps, where ForecastScheduler's would lie at this growth."""
    return list(ForecastPlan(list(range(total, -1, -1)), calls, growth=growth).steps)


@dataclass(frozen=True)
class Seen:
    """A step of this run: its number, noise level and output, and whether that is the model's."""

    step: int
    sigma: float
    output: torch.Tensor
    called: bool = True


Rule = Callable[[Sequence[Seen], Sequence[float]], torch.Tensor]
"""The steps so far, the noise levels of all and the end -> what stands for the model's output at the next step."""


class Solver:
    """A scheduler for a pipeline: `solver` over the own scheduler's levels, or over those that `pick` leaves.

    own: the pipeline's scheduler, copied. pick: indices of the steps that call the model (None: all). rule: the solver
    steps through all levels, with outputs by the rule where the model is not called.
    """

    order = 1
    init_noise_sigma = 1.0

    def __init__(
        self, own: Any, solver: str, pick: Sequence[int] | None = None, rule: Rule | None = None
    ) -> None:
        self._own, self._solver, self._rule = copy.deepcopy(own), SOLVERS[solver](), rule
        self._pick = None if pick is None else list(pick)
        self._heun = solver == "Heun"
        self.config = own.config

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None, sigmas: Any = None, mu: Any = None
    ) -> None:
        given = {"sigmas": sigmas, "mu": mu}
        given = {name: value for name, value in given.items() if value is not None}
        self._own.set_timesteps(num_inference_steps, device, **given)
        levels = self._own.sigmas.clone()
        levels[0] = min(float(levels[0]), 1 - 1e-6)  # the multistep solvers take logarithms of 1 - sigma
        pick = self._pick if self._pick is not None else list(range(len(levels) - 1))
        self._places = [*pick, len(levels) - 1]
        times = self._own.timesteps.float()  # Euler refuses whole numbers
        if self._rule:
            _load(self._solver, levels, times)
            self.timesteps = times[pick]
        else:
            _load(self._solver, levels[self._places], times[pick])
            self.timesteps = self._solver.timesteps
        self.sigmas, self._levels, self._seen = levels[self._places], levels.tolist(), []

    def set_begin_index(self, index: int = 0) -> None:
        pass

    def scale_model_input(self, sample: torch.Tensor, *_: Any) -> torch.Tensor:
        return sample

    def step(
        self, output: torch.Tensor, timestep: Any, sample: torch.Tensor, return_dict: bool = True
    ) -> Any:
        if self._rule is None:
            return self._solver.step(output, timestep, sample, return_dict=False)
        first = len(self._seen)
        end = self._places[self._places.index(first) + 1]
        for level in range(first, end):
            guess = output if level == first else self._rule(self._seen, self._levels)
            self._seen.append(Seen(level, self._levels[level], guess, level == first))
            sample = self._solver.step(guess, self._solver.timesteps[level], sample, return_dict=False)[0]
        return (sample,)


def _load(solver: Any, levels: torch.Tensor, times: torch.Tensor) -> None:
    """Give a solver these levels, the end among them, the timesteps that the model is told, and a fresh state."""
    count = len(levels) - 1
    solver.num_inference_steps = count
    if isinstance(solver, FlowMatchHeunDiscreteScheduler):  # two calls a step, but the last
        both = [torch.cat([each[:1], each[1:].repeat_interleave(2)]) for each in (levels[:-1], times)]
        solver.sigmas, solver.timesteps = torch.cat([both[0], levels[-1:]]), both[1]
        solver.prev_derivative = solver.dt = None
    else:
        if isinstance(solver, DEISMultistepScheduler):  # its formula has sigma * log(sigma), and is nan at 0
            levels = torch.cat([levels[:-1], levels[-1:].clamp(min=1e-5)])
        solver.sigmas, solver.timesteps = levels, times
        solver.model_outputs, solver.lower_order_nums = [None] * solver.config.get("solver_order", 1), 0
        solver.last_sample, solver.this_order = None, 0
        solver.timestep_list = [None] * solver.config.get("solver_order", 1)
    solver._step_index = solver._begin_index = None


# ---- Published forecasts, from their formulas ---------------------------------------------------------------------


def spectrum(degree: int = 4, ridge: float = 0.1, mix: float = 1.0) -> Rule:
    """Spectrum (arXiv 2603.01623): ridge regression on Chebyshev polynomials of the noise level over all calls so far.

    mix: share of it; the rest is a line through the last two calls, as its authors advise since (0.5 to 1).
    """

    def rule(steps: Sequence[Seen], levels: Sequence[float]) -> torch.Tensor:
        seen, sigma = [each for each in steps if each.called], levels[steps[-1].step + 1]
        if len(seen) < 2:
            return seen[-1].output
        at = np.array(
            [2 * each.sigma - 1 for each in seen]
        )  # noise levels run from 0 to 1, polynomials from -1 to 1
        basis = np.polynomial.chebyshev.chebvander(at, degree)
        row = np.polynomial.chebyshev.chebvander(np.array([2 * sigma - 1]), degree)
        weights = row @ np.linalg.solve(basis.T @ basis + ridge * np.eye(degree + 1), basis.T)
        fitted = sum(float(w) * each.output for w, each in zip(weights[0], seen, strict=True))
        if mix == 1.0:
            return fitted
        last, before = seen[-1], seen[-2]
        line = last.output + (sigma - last.sigma) * (last.output - before.output) / (
            last.sigma - before.sigma
        )
        return mix * fitted + (1 - mix) * line

    return rule


def hicache(order: int = 2, scale: float = 0.5) -> Rule:
    """HiCache (arXiv 2508.16984): Taylor's form with scaled Hermite polynomials, scale**n H_n(scale x), for x**n.

    x counts steps of the run. Derivatives are divided differences of the last calls, so that gaps may differ.
    """

    def rule(steps: Sequence[Seen], levels: Sequence[float]) -> torch.Tensor:
        last = [each for each in steps if each.called][-(order + 1) :][::-1]
        at, x = [each.step for each in last], steps[-1].step + 1 - last[0].step
        table, found = [each.output for each in last], last[0].output
        for n in range(1, len(last)):
            # Divided differences: the n-th derivative over n!
            table = [(table[i] - table[i + 1]) / (at[i] - at[i + n]) for i in range(len(table) - 1)]
            hermite = np.polynomial.hermite.hermval(scale * x, [0] * n + [1])
            found = found + float(scale**n * hermite) * table[0]
        return found

    return rule


def meancache(spans: Mapping[int, int]) -> Rule:
    """MeanCache (arXiv 2601.19961), as its authors' code has it: the last output, moved along a slope for one more step.

    The slope is that between the first output of the last K steps and their average velocity, over the length of all K; a
    line has half its slope there, which is the average velocity's. spans: the step of a call -> K in the gap after it.
    With K = 1 the output is repeated.
    """

    def rule(steps: Sequence[Seen], levels: Sequence[float]) -> torch.Tensor:
        call = next(each.step for each in reversed(steps) if each.called)
        window, end = steps[-spans[call] :], steps[-1].step + 1
        length = levels[end] - window[0].sigma
        moved = sum((levels[each.step + 1] - each.sigma) * each.output for each in window)
        slope = (window[0].output - moved / length) / length
        return steps[-1].output - (levels[end + 1] - levels[end]) * slope

    return rule
