"""One denoising run: which step it is at, its noise levels, and its latents in float32."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import torch
from torch import Tensor

from ..families import Family
from .callers import in_a_call
from .history import History
from .watched_sampler import plain_class

MISMATCH = 0.01
"""A timestep in bf16 is off by up to 2**-8 of itself; one that is off by more is not this sampler's."""


class Run:
    """One denoising run: `index` is its current step, `total` its number of steps (0: unknown)."""

    def __init__(
        self, scheduler: Any, timesteps: Any, shape: torch.Size, levels: list[float], family: Family
    ) -> None:
        self.read = family.told  # σ of a call's timestep
        self._sampler = None if scheduler is None else self._seen(scheduler)
        self.timesteps = timesteps
        self.shape = shape
        self.total = len(levels)
        self.levels = levels  # σ of each step as the sampler has it, or empty
        self.sigmas: list[float] = []  # all of the sampler's, read at its first step in this run
        self.euler = False  # whether the sampler's steps are plain Euler ones, read at the same time
        self.history = History()
        self.sizes: dict[int, int | list[int]] = {}  # of each step: one, or one a sample
        self.thread = threading.get_ident()
        self.by_pipeline = False  # whether a pipeline's own method makes its calls
        self.state: Any = None  # what its strategy keeps: runtime/run.py
        self.index = -1  # the step of the last transformer call
        self.done = 0  # steps that are over
        self.sampled = False  # the sampler has stepped in this run
        self.finished = False
        self.timestep: Tensor | None = None  # of the current step, as the transformer was told
        self.repeats = 0  # further calls of the current step
        self._holders: dict[str, weakref.ref[Tensor]] = {}
        # Between the first step's σ as the sampler has it and as the transformer was told; infinite where the two are of
        # different kinds, as Cosmos' σ / (1 + σ).
        self.offset = 0.0

    @property
    def told(self) -> float:
        """σ of the current step as the transformer was told; on a GPU this waits for it."""
        assert self.timestep is not None
        return self.read(self.timestep)

    @property
    def scheduler(self) -> Any:
        """The sampler of the run; None without one, or once nobody else holds it."""
        return self._sampler and self._sampler()

    def seen_alive(self, kind: str, result: Any) -> None:
        """What a loop has just been given, a model's "output" or a sampler's "latent".

        A pipeline whose method holds neither any more was left, and so was a loop of the user's own whose sampler is gone:
        what its steps would have needed is freed. Such a loop may well hold neither tensor: it may have cast both.
        """
        tensor = _first_tensor(result)
        if tensor is not None:
            self._holders[kind] = self._seen(tensor)

    def _seen(self, held: Any) -> weakref.ref[Any]:
        """A reference to what a loop holds; with it a run that was left ends."""
        run = weakref.ref(self)

        def gone(ref: weakref.ref[Any]) -> None:
            left = run()
            if left is not None and left.state is not None and left._was_left:
                left.state.clear()

        return weakref.ref(held, gone)

    @property
    def _was_left(self) -> bool:
        sampler = self.scheduler
        if sampler is None:
            return self._sampler is not None
        # Before the sampler's first step nothing follows from a lost output: guidance makes another tensor of it.
        holds = "latent" not in self._holders or any(ref() is not None for ref in self._holders.values())
        return self.by_pipeline and not holds and not in_a_call(sampler)

    def noise_level_of(self, step: int) -> float | None:
        """σ in [0, 1] of a step as the sampler has it; None where only the timestep is known."""
        return self.levels[step] if step < len(self.levels) else None

    def is_at(self, step: int, told: float) -> bool:
        """Whether a call at σ = `told` may be one of `step`: by the sampler's σ or by its timestep, which may differ."""
        level = self.noise_level_of(step)
        if level is None or abs(level - told) <= max(MISMATCH, self.offset):
            return True
        stated = self.timesteps[len(self.timesteps) - len(self.levels) + step]
        return abs(self.read(stated) - told) <= MISMATCH

    @property
    def noise_level(self) -> float | None:
        """σ in [0, 1] of the current step as the sampler has it; None where only the timestep is known."""
        return self.noise_level_of(self.index)

    @property
    def level(self) -> float:
        """σ of the current step: the sampler's, or as the transformer was told."""
        return self.told if self.noise_level is None else self.noise_level

    def takes(self, latents: Tensor) -> bool:
        """Whether a call may be one of this run: guidance, and with it a part of the rows, may end within it."""
        first = 1 if self.sampled else 0
        return self.shape[first:] == latents.shape[first:]

    def same_timestep(self, timestep: Tensor) -> bool:
        """Whether a call is a further one of the current step."""
        if timestep is self.timestep:
            return True
        if self.by_pipeline and timestep.device.type != "cpu":
            return True  # guidance's second call: reading the values would stall the GPU for nothing
        return self.read(timestep) == self.told

    def take_over(self) -> None:
        """At the sampler's first step in a run: from here on it alone says what a step is."""
        self.sampled = True
        self.history.clear()
        sigmas = getattr(self.scheduler, "sigmas", None)
        self.sigmas = sigmas.tolist() if isinstance(sigmas, Tensor) else []
        self.euler = steps_by_euler(self.scheduler)
        index = getattr(self.scheduler, "step_index", None)
        if isinstance(index, int) and isinstance(self.timesteps, Tensor):
            # Only now it is certain where a loop without set_begin_index entered.
            self.levels = noise_levels(self.scheduler, self.timesteps)[max(index - 1 - self.done, 0) :]
            self.total = len(self.levels)

    def follow(self, named: dict[str, Any], result: Any) -> None:
        """Add this step's float32 difference to the history."""
        output, sample = named.get("model_output"), named.get("sample")
        if not isinstance(output, Tensor) or not isinstance(sample, Tensor):
            return
        length = _euler_length(self, named)
        if length is not None:
            difference = output
        else:
            after = result[0] if isinstance(result, tuple) else result.prev_sample
            difference = after.detach().float() - sample.detach().float()
        if self.history.shape != difference.shape:
            self.history.clear()
            self.history.push(sample.expand_as(difference))
        self.history.add(difference, length)


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
    return (
        plain_class(type(scheduler)) is FlowMatchEulerDiscreteScheduler
        and not scheduler.config.stochastic_sampling
    )


def _first_tensor(result: Any) -> Tensor | None:
    """The tensor in what a model or a sampler returns: a tensor, a tuple or a diffusers output object."""
    if isinstance(result, dict):
        result = tuple(result.values())
    if isinstance(result, tuple | list) and result:
        return _first_tensor(result[0])
    return result if isinstance(result, Tensor) else None


def noise_levels(scheduler: Any, timesteps: Tensor) -> list[float]:
    """σ in [0, 1] of each timestep, read at once: its sigmas where they are such, else timesteps / 1000."""
    sigmas = getattr(scheduler, "sigmas", None)
    if isinstance(sigmas, Tensor) and sigmas.ndim == 1 and len(sigmas) >= len(timesteps):
        levels = sigmas[: len(timesteps)].tolist()
        if all(0 <= level <= 1 for level in levels):
            return levels
    scale = getattr(scheduler.config, "num_train_timesteps", 1000)
    return [float(t) / scale for t in timesteps.tolist()]
