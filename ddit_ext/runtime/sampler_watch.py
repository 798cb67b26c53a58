"""Watches a pipeline's sampler: where a run begins, which step it is at, and its latents in float32.

The transformer itself cannot tell: its timestep is rounded in bf16, guidance calls it twice a step, and
it never sees the combined output. `scheduler.step` sees all that: wrapped on the instance, it is called as
it is and looked at. Without a sampler (a loop of a user's own) a changed timestep is the next step.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..families import Family
from .history import History
from .step_watch import StepWatch

MISMATCH = 0.01
"""A timestep in bf16 is off by up to 2**-8 of itself; one that is off by more is not this sampler's."""


class Run:
    """One denoising run: `index` is its current step, `total` its number of steps (0: unknown)."""

    def __init__(
        self,
        scheduler: Any,
        timesteps: Any,
        shape: torch.Size,
        levels: list[float],
        family: Family,
    ) -> None:
        self.read = family.told  # σ of a call's timestep
        self.scheduler = scheduler
        self.timesteps = timesteps
        self.shape = shape
        self.total = len(levels)
        self.levels = levels  # σ of each step as the sampler has it, or empty
        self.sigmas: list[float] = []  # all of the sampler's, read at its first step in this run
        self.euler = False  # whether the sampler's steps are plain Euler ones, read at the same time
        self.history = History()
        self.sizes: dict[int, int | list[int]] = {}  # of each step: one, or one a sample
        self.index = -1  # the step of the last transformer call
        self.done = 0  # steps that are over
        self.sampled = False  # the sampler has stepped in this run
        self.finished = False
        self.timestep: Tensor | None = None  # of the current step, as the transformer was told
        self.repeats = 0  # further calls of the current step

    @property
    def told(self) -> float:
        """σ of the current step as the transformer was told; on a GPU this waits for it."""
        assert self.timestep is not None
        return self.read(self.timestep)

    @property
    def noise_level(self) -> float | None:
        """σ in [0, 1] of the current step as the sampler has it; None where only the timestep is known."""
        return self.levels[self.index] if self.index < len(self.levels) else None

    @property
    def level(self) -> float:
        """σ of the current step: the sampler's, or as the transformer was told."""
        return self.told if self.noise_level is None else self.noise_level


class SamplerWatch:
    """Follows the runs of one pipeline.

    signal: keep the float32 latents, which scores are computed from. stepped: called after each sampler step.
    """

    def __init__(self, pipe: Any, signal: bool, stepped: Callable[[Run], None]) -> None:
        self._pipe = weakref.ref(pipe)  # the hook that owns this hangs on the pipeline's transformer
        # Pipelines that share the patch step by it when `pipe` is gone.
        self._scheduler: Any = getattr(pipe, "scheduler", None)
        self._signal = signal
        self._stepped = stepped
        self._step: StepWatch | None = None
        self._wrapped: Any = None
        self.run: Run | None = None

    def look(self, latents: Tensor, timestep: Tensor, family: Family) -> tuple[Run, bool]:
        """At each transformer call: the run and whether this call begins a step of it.

        latents, timestep: the call's own; family: of the transformer that is called.
        """
        pipe = self._pipe()
        if pipe is not None:
            self._scheduler = getattr(pipe, "scheduler", None)
        scheduler = self._scheduler
        timesteps = getattr(scheduler, "timesteps", None)
        if scheduler is not self._wrapped:
            self._wrap(scheduler)
        run = self.run
        if (
            run is None
            or run.finished
            or run.scheduler is not scheduler
            or not _same_list(run.timesteps, timesteps)
            or (run.shape[1:] if run.sampled else run.shape)
            != (latents.shape[1:] if run.sampled else latents.shape)  # guidance may end within a run
        ):
            run = self._begin(scheduler, timesteps, latents, timestep, family)
        elif run.done == run.index:
            if self._same_timestep(run, timestep):
                run.repeats += 1
                return run, False
            if run.sampled or family.told(timestep) > run.told:  # another loop, without this sampler
                run = self._begin(scheduler, timesteps, latents, timestep, family)
            else:
                run.done += 1
        run.index = run.done
        run.timestep = timestep
        run.repeats = 0
        if self._signal and not run.sampled:
            run.history.push(family.noisy(latents))
        return run, True

    def drop(self) -> None:
        """Forget the run, as after an error in it."""
        self.run = None

    def remove(self) -> None:
        """Leave the sampler as it was found."""
        self.run = self._scheduler = None
        self._wrap(None)

    def _wrap(self, scheduler: Any) -> None:
        if self._step is not None:
            self._step.remove()
        self._wrapped = scheduler
        self._step = None
        if callable(getattr(scheduler, "step", None)):
            self._step = StepWatch(scheduler, self._seen)

    def _begin(
        self, scheduler: Any, timesteps: Any, latents: Tensor, timestep: Tensor, family: Family
    ) -> Run:
        levels: list[float] = []
        if isinstance(timesteps, Tensor) and timesteps.ndim == 1:
            levels = _noise_levels(scheduler, timesteps)
            first = _first_step(scheduler)
            told = family.told(timestep)
            if first < len(levels) and abs(levels[first] - told) > MISMATCH:
                # Video-to-video enters later without saying so; otherwise it is not this sampler's run.
                stated = [family.told(t) for t in timesteps.cpu()]
                first = stated.index(told) if told in stated else len(levels)
            levels = levels[first:]
        self.run = Run(scheduler, timesteps, latents.shape, levels, family)
        return self.run

    @staticmethod
    def _same_timestep(run: Run, timestep: Tensor) -> bool:
        if timestep is run.timestep:
            return True
        if run.sampled and timestep.device.type != "cpu" and run.repeats == 0:
            return True  # guidance's second call: reading the values would stall the GPU for nothing
        return run.read(timestep) == run.told

    def _followed(self, scheduler: Any) -> Run | None:
        """The run under way, where this is its sampler."""
        run = self.run
        if run is None or run.finished or run.scheduler is not scheduler:
            return None
        if not _same_list(run.timesteps, scheduler.timesteps):
            return None  # another run has begun, and the transformer has not been called in it
        return run

    def _seen(self, scheduler: Any, args: tuple, kwargs: dict, result: Any) -> None:
        run = self._followed(scheduler)
        if run is None:
            return
        if not run.sampled:
            self._take_over(run)
        if self._signal:
            named = dict(zip(("model_output", "timestep", "sample"), args, strict=False)) | kwargs
            self._follow(run, named, result)
        run.done += 1
        run.finished = bool(run.total) and run.done >= run.total
        if run.finished:
            run.history.clear()
        self._stepped(run)

    @staticmethod
    def _take_over(run: Run) -> None:
        """At the sampler's first step in a run: from here on it alone says what a step is."""
        run.sampled = True
        run.history.clear()
        sigmas = getattr(run.scheduler, "sigmas", None)
        run.sigmas = sigmas.tolist() if isinstance(sigmas, Tensor) else []
        run.euler = steps_by_euler(run.scheduler)
        index = getattr(run.scheduler, "step_index", None)
        if isinstance(index, int) and isinstance(run.timesteps, Tensor):
            # Only now it is certain where a loop without set_begin_index entered.
            run.levels = _noise_levels(run.scheduler, run.timesteps)[max(index - 1 - run.done, 0) :]
            run.total = len(run.levels)

    @staticmethod
    def _follow(run: Run, named: dict[str, Any], result: Any) -> None:
        """Add this step's float32 difference to the history."""
        output, sample = named.get("model_output"), named.get("sample")
        if not isinstance(output, Tensor) or not isinstance(sample, Tensor):
            return
        length = _euler_length(run, named)
        if length is not None:
            difference = output
        else:
            after = result[0] if isinstance(result, tuple) else result.prev_sample
            difference = after.detach().float() - sample.detach().float()
        if run.history.shape != difference.shape:
            run.history.clear()
            run.history.push(sample.expand_as(difference))
        run.history.add(difference, length)


def _euler_length(run: Run, named: dict[str, Any]) -> float | None:
    """σ_{k+1} - σ_k where the step was exactly that times the model's output, else None."""
    if not run.euler or named.get("per_token_timesteps") is not None:
        return None
    step = run.scheduler.step_index - 1  # the sampler has moved on
    return run.sigmas[step + 1] - run.sigmas[step]


def steps_by_euler(scheduler: Any) -> bool:
    """Whether a sampler's step is its length in sigma times the model's output, and nothing else."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    # The class itself: a subclass may step otherwise.
    return type(scheduler) is FlowMatchEulerDiscreteScheduler and not scheduler.config.stochastic_sampling


def _same_list(before: Any, now: Any) -> bool:
    """Whether a sampler's timesteps are those of the run: the same tensor, or another view of all of it."""
    if before is now:
        return True
    tensors = isinstance(before, Tensor) and isinstance(now, Tensor)
    return tensors and before.shape == now.shape and before.data_ptr() == now.data_ptr()


def _first_step(scheduler: Any) -> int:
    """The index at which a run that begins now enters the sampler's timesteps."""
    for name in ("step_index", "begin_index"):
        index = getattr(scheduler, name, None)
        if isinstance(index, int):
            return index
    return 0


def _noise_levels(scheduler: Any, timesteps: Tensor) -> list[float]:
    """σ in [0, 1] of each timestep, read at once: its sigmas where they are such, else timesteps / 1000."""
    sigmas = getattr(scheduler, "sigmas", None)
    if isinstance(sigmas, Tensor) and sigmas.ndim == 1 and len(sigmas) >= len(timesteps):
        levels = sigmas[: len(timesteps)].tolist()
        if all(0 <= level <= 1 for level in levels):
            return levels
    scale = getattr(scheduler.config, "num_train_timesteps", 1000)
    return [float(t) / scale for t in timesteps.tolist()]
