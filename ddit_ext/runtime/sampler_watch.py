"""Follows the samplers of a patch: where a run begins, which step it is at, and its latents in float32.

The transformer itself cannot tell: its timestep is rounded in bf16, guidance calls it twice a step, and it never sees
the combined output. The sampler's `step` sees all that. A run belongs to one sampler object and, at a time, to one thread.
It begins with the first call after `set_timesteps` that is made at the sampler's noise level. A call that belongs to no
run is no business of the patch.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, nn

from ..families import Family
from ..modules.compiled import unwrap
from ..schedulers import ForecastScheduler
from .callers import DENOISERS, calling_pipeline
from .sampler_line import SHARED, Line
from .sampler_run import MISMATCH, Run, noise_levels
from .watched_sampler import leave_sampler, watch_sampler

ROUNDING = 2**-8
"""The relative error of a timestep in bf16."""

AMBIGUOUS = (
    "it can't be told which of several samplers this call of the transformer belongs to: put the call and the sampler's step "
    "into `with handle.run(sampler=...):` (docs/in-a-server.md)"
)


class GivenRun:
    """`with handle.run(...)`: the calls that this thread makes inside belong to one run."""

    def __init__(self, watch: SamplerWatch, total: int, sampler: Any) -> None:
        self._watch, self.total, self.sampler = watch, total, sampler
        self.run: Run | None = None

    def __enter__(self) -> GivenRun:
        self._watch.given().append(self)
        return self

    def __exit__(self, *error: object) -> None:
        self._watch.given().remove(self)
        if self.run is not None:
            self._watch.end(self.run)
            self.run = None


class SamplerWatch:
    """Follows the runs of one patch.

    signal: keep the float32 latents, which scores are computed from. stepped: called after each sampler step; ended: when
    a run is over, however it ends; seen: a sampler has stepped, in a run or not; exchanged: the pipeline is about to run
    with another model than one of `modules`, which it gives. modules: what is called by pipelines.

    Attributes:
        lock: held while a run is looked up or moved on.
        run: the run that was called last.
    """

    def __init__(
        self,
        pipe: Any,
        signal: bool,
        stepped: Callable[[Run], None],
        ended: Callable[[Run], None] = lambda run: None,
        modules: Collection[nn.Module] = (),
        seen: Callable[[Any], None] = lambda sampler: None,
        exchanged: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._pipe = weakref.ref(pipe)  # the hook that owns this hangs on the pipeline's transformer
        self._signal = signal
        self._stepped, self._ended, self._saw, self._exchanged = stepped, ended, seen, exchanged
        self._modules = modules
        self._lines: weakref.WeakKeyDictionary[Any, Line] = weakref.WeakKeyDictionary()
        self._local = threading.local()
        self.removed = False
        self.lock = threading.RLock()
        self.classes: dict[tuple, type] = {}  # those of the samplers, by the library's own
        self.run: Run | None = None
        self.follow(getattr(pipe, "scheduler", None))

    def given(self) -> list[GivenRun]:
        """The runs that this thread has said it is in, the innermost last."""
        return vars(self._local).setdefault("given", [])

    def begin(self, total: int, sampler: Any) -> GivenRun:
        """See `Handle.run`."""
        if self.removed:
            raise RuntimeError("handle.run: the pipeline is not patched any more")
        return GivenRun(self, total, sampler)

    def follow(self, sampler: Any) -> Line | None:
        """Watch a sampler from now on; None for what is none, and once the patch is off."""
        if self.removed or not callable(getattr(sampler, "step", None)):
            return None
        if sampler not in self._lines:
            watch_sampler(sampler, self)
            self._lines[sampler] = Line()
        return self._lines[sampler]

    def caller(self) -> tuple[Any, bool]:
        """The sampler of who calls a transformer now, None where that isn't certain; whether it is a pipeline's."""
        if self.given():
            return self.given()[-1].sampler, False
        pipeline = calling_pipeline(self._modules)
        if pipeline is not None:
            return pipeline.scheduler, True
        return None, False

    def look(self, latents: Tensor, timestep: Tensor, family: Family) -> tuple[Run | None, bool]:
        """At each transformer call: its run, None without one; and whether this call begins a step of it.

        latents, timestep: the call's own; family: of the transformer that is called.

        Raises:
            RuntimeError: a sampler that two threads use at once, or a call that may belong to several.
        """
        with self.lock:
            sampler, by_pipeline = self.caller()
            if sampler is None and self.given():
                run, new = self._look_without_sampler(self.given()[-1], latents, timestep, family)
            else:
                sampler = sampler or self._of_loop(latents, timestep, family)
                run, new = self._look(sampler, by_pipeline, latents, timestep, family)
            if run is None:
                return None, False
            if new:
                run.index, run.timestep, run.repeats = run.done, timestep, 0
                if self._signal and not run.sampled:
                    run.history.push(family.noisy(latents))
            else:
                run.repeats += 1
            self.run = run
            return run, new

    def called(self, name: str, sampler: Any, method: Callable, /, *args: Any, **kwargs: Any) -> Any:
        """A sampler's method, called as it is and looked at."""
        inside, this = vars(self._local).setdefault("inside", set()), (name, id(sampler))
        if self.removed or this in inside:  # what was put on the instance calls what stood there before
            return method(*args, **kwargs)
        if name == "step":
            with self.lock:
                if sampler in self._lines:
                    self._lines[sampler].check_step()
        try:
            try:
                inside.add(this)
                result = method(*args, **kwargs)
            finally:
                inside.discard(this)
        finally:  # once more: the interrupt may have come while that was done
            inside.discard(this)
        with self.lock:
            line = self.follow(sampler)
            if line is not None and not self.removed:
                if name == "step":
                    self._seen(line, sampler, args, kwargs, result)
                    self._saw(sampler)
                else:
                    run = line.begin()
                    if run is not None:
                        self.end(run)
                    self._look_for_others(sampler)
        return result

    def end(self, run: Run) -> None:
        """A run is over: what it keeps is freed."""
        run.finished = True
        run.history.clear()
        self._ended(run)

    def drop(self, run: Run) -> None:
        """Forget a run, as after an error in it: the call that raised did not happen."""
        self.end(run)
        for holder in (*self._lines.values(), *self.given()):
            if holder.run is run:
                holder.run = None

    def remove(self) -> None:
        """Leave all samplers as they were found."""
        with self.lock:
            self.removed = True
            for sampler, line in list(self._lines.items()):
                if line.run is not None:
                    self.end(line.run)
                leave_sampler(sampler, self)
            self._lines.clear()
            self._modules = ()
            self.run = None

    def _look(
        self, sampler: Any, by_pipeline: bool, latents: Tensor, timestep: Tensor, family: Family
    ) -> tuple[Run | None, bool]:
        line = self.follow(sampler)
        if line is None:
            return None, False
        line.check_call(by_pipeline=False)
        run, me = line.run, threading.get_ident()
        if run is not None and not _same_list(run.timesteps, getattr(sampler, "timesteps", None)):
            self.drop(run)  # a list that was put there by hand
            run = None
        if run is None:
            line.check_call(by_pipeline)
            run = self._begin(sampler, latents, timestep, family, by_pipeline)
            if run is not None:
                line.run, run.by_pipeline = run, by_pipeline
            return run, True
        other = run.by_pipeline != by_pipeline and not self.given()
        if run.finished or not run.takes(latents) or other:
            return None, False
        if run.done == run.index:  # further calls of a step, such as guidance's
            if run.thread != me:
                raise RuntimeError(SHARED)
            return (run, False) if run.same_timestep(timestep) else (None, False)
        if run.thread != me and by_pipeline:
            raise RuntimeError(SHARED)
        readable = not by_pipeline or timestep.device.type == "cpu"  # on a GPU reading it would wait
        if readable and not run.is_at(run.done, family.told(timestep)):
            return None, False
        run.thread = me
        return run, True

    def _look_without_sampler(
        self, given: GivenRun, latents: Tensor, timestep: Tensor, family: Family
    ) -> tuple[Run, bool]:
        """A loop of the user's own: a changed timestep is the next step."""
        run = given.run
        if run is None:
            given.run = Run(None, None, latents.shape, [], family)
            given.run.total = given.total
            return given.run, True
        if run.same_timestep(timestep):
            return run, False
        run.done += 1
        return run, True

    def _of_loop(self, latents: Tensor, timestep: Tensor, family: Family) -> Any | None:
        """The sampler of a loop that isn't a pipeline's; None where the call belongs to no run."""
        pipe = self._pipe()
        if pipe is not None:
            self.follow(getattr(pipe, "scheduler", None))
        me = threading.get_ident()
        lines = [(sampler, line) for sampler, line in self._lines.items() if line.thread in (None, me)]
        told = None
        found = []
        for sampler, line in lines:
            run = line.run
            if run is not None and (run.by_pipeline or run.finished or not run.takes(latents)):
                continue
            if getattr(sampler, "num_inference_steps", None) is None:
                continue  # its timesteps were never set
            told = family.told(timestep) if told is None else told
            if run is None:
                fits = _entry(sampler, told, family) is not None
            elif run.done == run.index:
                fits = run.told == told
            else:
                fits = run.noise_level_of(run.done) is not None and run.is_at(run.done, told)
            if fits:
                found.append(sampler)
        if len(found) > 1:
            raise RuntimeError(AMBIGUOUS)
        return found[0] if found else None

    @staticmethod
    def _begin(
        sampler: Any, latents: Tensor, timestep: Tensor, family: Family, by_pipeline: bool
    ) -> Run | None:
        """The run that this call begins; None where the sampler is not at its noise level."""
        told = family.told(timestep)
        if isinstance(sampler, ForecastScheduler):
            sampler.enter(told)
        first = _entry(sampler, told, family)
        if first is None and not (by_pipeline and _has_steps_left(sampler)):
            return None
        # None: the pipeline tells its transformer other noise levels than its sampler has; where it entered is seen later.
        levels = [] if first is None else noise_levels(sampler, sampler.timesteps)[first:]
        timesteps = sampler.timesteps.data  # a ForecastScheduler's own would keep it alive
        run = Run(sampler, timesteps, latents.shape, levels, family)
        run.offset = abs(levels[0] - told) if levels else math.inf
        return run

    def _look_for_others(self, sampler: Any) -> None:
        """Tell of models that were put into the pipeline, in the place of patched ones, since it was patched."""
        pipe = self._pipe()
        if getattr(pipe, "scheduler", None) is not sampler:
            return
        held = {name: unwrap(getattr(pipe, name, None)) for name in DENOISERS}
        mine = [unwrap(module) for module in self._modules]
        if not all(any(module is other for other in held.values()) for module in mine):
            for name, module in held.items():
                # One that holds a patched one (PEFT, DDP) calls it, and so its hook.
                if isinstance(module, nn.Module) and not any(part in mine for part in module.modules()):
                    self._exchanged(name)

    def _seen(self, line: Line, sampler: Any, args: tuple, kwargs: dict, result: Any) -> None:
        run, line.thread = line.run, threading.get_ident()
        if run is None or run.finished or run.index < run.done:
            return  # the transformer has not been called at this step
        if not _same_list(run.timesteps, sampler.timesteps):
            return
        run.seen_alive("latent", result)
        if not run.sampled:
            run.take_over()
        if self._signal:
            named = dict(zip(("model_output", "timestep", "sample"), args, strict=False)) | kwargs
            run.follow(named, result)
        run.done += 1
        over = bool(run.total) and run.done >= run.total
        self._stepped(run)
        if over:
            self.end(run)


def _entry(sampler: Any, told: float, family: Family) -> int | None:
    """The index of the sampler's timesteps at which a run enters whose first call is at σ = `told`."""
    if not _has_steps_left(sampler):
        return None
    levels, first = noise_levels(sampler, sampler.timesteps), _first_step(sampler)
    if abs(levels[first] - told) <= MISMATCH:
        return first
    # Video-to-video enters later without saying so, and so may a loop.
    nearest = min(range(len(levels)), key=lambda index: abs(levels[index] - told))
    if abs(levels[nearest] - told) <= told * ROUNDING:
        return nearest
    stated = [family.told(t) for t in sampler.timesteps.cpu()]
    return stated.index(told) if told in stated else None


def _has_steps_left(sampler: Any) -> bool:
    timesteps = getattr(sampler, "timesteps", None)
    return isinstance(timesteps, Tensor) and timesteps.ndim == 1 and _first_step(sampler) < len(timesteps)


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
