"""ForecastScheduler: fewer model calls for any flow-matching pipeline, in diffusers' own form."""

from __future__ import annotations

import copy
import operator
import types
from dataclasses import replace
from typing import Any

import diffusers
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput

from .._core import ForecastPlan
from . import bases
from .places import Places, Steps, Timesteps
from .run import ComputedStep, Run, find_entry, shares_storage
from .settings import calls_of, check_settings
from .through import copied_lists

_OWN = ("calls", "speedup", "target", "growth", "slope", "corrector")
_NAMES = ("_class_name", "_diffusers_version", "base_scheduler")


class ForecastScheduler(SchedulerMixin, ConfigMixin):
    """Calls the model at some of a pipeline's steps and forecasts its output at the others.

    It wraps the pipeline's own sampler. The pipeline sees one timestep a call. The call that ends a computed step also
    crosses the gap to the next one: in closed form for FlowMatchEulerDiscreteScheduler, level by level for UniPC,
    DPM-Solver++ and DEIS. The corrector takes back the error of a gap once the model's next output shows it.

        pipe.scheduler = ddit_ext.ForecastScheduler.from_scheduler(pipe.scheduler, calls=11)

    Args:
        scheduler: the sampler to wrap; it is copied. Deterministic flow-matching samplers only.
        calls: how many of the pipeline's steps call the model.
        speedup: in the place of calls: all steps divided by it, rounded down.
        target: "run" gives the picture that all of the pipeline's steps would give; "exact" aims at the sample of the
            ODE, which infinitely many steps would give.
        growth: how the gaps grow along the run, in [1, 4]; 1 spreads the calls evenly.
        slope: share of the outputs' last slope that a forecast follows, in [0, 1]; with few calls of the predicted
            samples', 0 in the last gap.
        corrector: share of a gap's error that is taken back, in [0, 1].
            None lets growth, slope and corrector follow from calls, steps and target (docs/design/forecast-sampler.md).

    With as many calls as steps, and slope and corrector at 0 or None, results are the wrapped sampler's bit for bit.
    A run that begins in the middle (img2img, inpainting) calls the model at the same share of its steps, and what
    follows from calls and steps follows from those that are left.

    Attributes:
        base: the wrapped sampler, a copy, which holds all levels.
        computed: a ComputedStep for each model call of the current run.
        plan: the run's ForecastPlan; None before set_timesteps.

    Raises:
        TypeError, ValueError: a sampler that can't be wrapped, or an argument that is not meant, by name.
    """

    stands_for: Any = None
    """The user's own sampler, where this one stands in its place; see stand_for."""

    has_compatibles = False
    __module__ = "ddit_ext.schedulers"  # what a saved pipeline names

    def __new__(cls, scheduler: Any, **settings: Any) -> ForecastScheduler:
        base = scheduler.base if isinstance(scheduler, ForecastScheduler) else scheduler
        bases.check(base)
        return _blank(bases.plain_class(type(base)))

    def __init__(
        self,
        scheduler: Any,
        *,
        calls: int | None = None,
        speedup: float | None = None,
        target: str = "run",
        growth: float | None = None,
        slope: float | None = None,
        corrector: float | None = None,
    ) -> None:
        own = dict(zip(_OWN, (calls, speedup, target, growth, slope, corrector), strict=True))
        check_settings("ForecastScheduler", **own)
        base = scheduler.base if isinstance(scheduler, ForecastScheduler) else scheduler
        self.base = _copied(base)
        # A sampler made from a config of this class has this one's settings in its own.
        taken = {key: value for key, value in base.config.items() if key not in (*_OWN, *_NAMES)}
        names = {"_class_name": ForecastScheduler.__name__, "base_scheduler": type(base).__name__}
        self.register_to_config(**taken, **own, **names)
        self._steps: Steps | None = None
        self._run: Run | None = None
        self._begin_index: int | None = None
        self._cut: int | None = None  # where `timesteps` were cut before the run
        self._cuts: dict[int, Places] = {}

    @classmethod
    def from_scheduler(
        cls,
        scheduler: Any,
        *,
        calls: int | None = None,
        speedup: float | None = None,
        target: str = "run",
        growth: float | None = None,
        slope: float | None = None,
        corrector: float | None = None,
    ) -> ForecastScheduler:
        """Wrap a pipeline's own sampler; arguments as the class's, one of calls and speedup among them."""
        own = dict(zip(_OWN, (calls, speedup, target, growth, slope, corrector), strict=True))
        return ForecastScheduler(scheduler, **own)

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """From a config of this class, or of a sampler that it can wrap, together with calls or speedup."""
        if not isinstance(config, dict):
            raise TypeError(
                f"ForecastScheduler.from_config: config must be a dict, got {type(config).__name__}."
            )
        config = dict(config)
        name = config.get("_class_name")
        if name in (None, ForecastScheduler.__name__):
            name = config.get("base_scheduler")
        else:  # of another sampler, where settings of this class are left from a config before
            config = {key: value for key, value in config.items() if key not in _OWN}
        if "calls" in kwargs or "speedup" in kwargs:  # in the place of what the config has
            config.pop("calls", None)
            config.pop("speedup", None)
        own = {key: kwargs.pop(key, config.get(key)) for key in _OWN if key in kwargs or key in config}
        config = {key: value for key, value in config.items() if key not in (*_OWN, *_NAMES)}
        base_class = getattr(diffusers, str(name), None)
        if not (isinstance(base_class, type) and issubclass(base_class, SchedulerMixin)):
            raise ValueError(
                f"ForecastScheduler.from_config: the config must name a sampler of diffusers, got {name!r}. "
                "Wrap the sampler itself with ForecastScheduler.from_scheduler."
            )
        base, unused = base_class.from_config(
            config | {"_class_name": name}, return_unused_kwargs=True, **kwargs
        )
        made = ForecastScheduler(base, **own)
        return (made, unused) if return_unused_kwargs else made

    # ---- What a pipeline asks ---------------------------------------------------------------------------------

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None, **kwargs: Any
    ) -> None:
        """Begin a run of so many steps; arguments as the wrapped sampler's.

        Raises:
            ValueError: more calls than steps, a speedup that leaves fewer than 2 calls, sigmas that are NaN or rise.
        """
        self._steps, self._run, self._begin_index, self._cut, self._cuts = None, None, None, None, {}
        self.base.set_timesteps(num_inference_steps, device, **kwargs)
        sigmas = self.base.sigmas.tolist()
        self._steps = Steps(
            base=self.base,
            sigmas=sigmas,
            calls=calls_of(
                "ForecastScheduler", len(sigmas) - 1, self.config["calls"], self.config["speedup"]
            ),
            settings={key: self.config[key] for key in ("target", "growth", "slope", "corrector")}
            | {"solver": "euler" if bases.in_closed_form(self.base) else "multistep"},
            counted=kwargs.get("sigmas") is None and kwargs.get("timesteps") is None,
        )
        self._run = Run(self.base, self.places(0))

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin the run at an entry of `timesteps`; the steps that are left get places of their own."""
        if self._steps is None:
            raise RuntimeError("ForecastScheduler.set_begin_index: call set_timesteps first.")
        self._begin_index = begin_index
        if not 0 <= begin_index < self.entries:
            raise ValueError(
                f"ForecastScheduler.set_begin_index: begin_index must be in [0, {self.entries - 1}], got {begin_index}."
            )
        places = self.places(begin_index)
        self._run = Run(self.base, places, begin_index)
        self.base.set_begin_index(places.levels[begin_index])

    def scale_model_input(self, sample: torch.Tensor, *_: Any) -> torch.Tensor:
        """The sample itself: flow-matching models take it as it is."""
        return sample

    def step(
        self,
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        return_dict: bool = True,
        **extra: Any,
    ) -> SchedulerOutput | tuple[torch.Tensor]:
        """The sample at the next computed step, or at the end of the run.

        model_output, sample: of one shape, any; computed in float32. extra: for the wrapped sampler's own step.
        A sample of another shape begins a new run. Where a callback changed the sample, the history begins anew.

        Raises:
            RuntimeError: before set_timesteps, or after the last step. ValueError: a step out of order.
        """
        if self._run is None:
            raise RuntimeError("ForecastScheduler.step: call set_timesteps first.")
        if self._run.places.rewritten:
            self._steps, self._cuts = self._steps.ending_at(self._run.places.sigmas[-1]), {}
            self._run = Run(self.base, self.places(self._run.places.begin), self._begin_index)
        if self._run.index is None or not self._run.takes(sample):
            self._run = Run(self.base, self._places_of(timestep), self._begin_index)
        new = self._run.step(model_output, timestep, sample, extra)
        return SchedulerOutput(prev_sample=new) if return_dict else (new,)

    @property
    def timesteps(self) -> torch.Tensor:
        """One for each model call."""
        return self.base.timesteps if self._run is None else Timesteps.of(self, self._run.places.timesteps)

    @timesteps.setter
    def timesteps(self, value: Any) -> None:
        raise _assigned("timesteps")

    @property
    def sigmas(self) -> torch.Tensor:
        """Noise levels of the model calls, and of the end."""
        return self.base.sigmas if self._run is None else self._run.places.sigmas

    @sigmas.setter
    def sigmas(self, value: Any) -> None:
        raise _assigned("sigmas")

    @property
    def num_inference_steps(self) -> int | None:
        """How many steps call the model; None before set_timesteps."""
        return None if self._run is None else len(self._run.places.levels)

    @property
    def step_index(self) -> int | None:
        """Index of the next model call in `timesteps`; None before the first."""
        return None if self._run is None else self._run.index

    @property
    def begin_index(self) -> int | None:
        """As set_begin_index set it."""
        return self._begin_index

    @property
    def computed(self) -> tuple[ComputedStep, ...]:
        """The model calls of the current run so far."""
        return () if self._run is None else tuple(self._run.computed)

    @property
    def plan(self) -> ForecastPlan | None:
        """The plan of the current run; None before set_timesteps."""
        return None if self._run is None else self._run.places.plan

    @property
    def entries(self) -> int:
        """How many entries of `timesteps` a pipeline counts when it begins in the middle."""
        return 0 if self._steps is None else self._steps.entries

    def places(self, begin: int) -> Places:
        """The places of a run that begins at an entry of `timesteps`, below `entries`."""
        if begin not in self._cuts:
            self._cuts[begin] = self._steps.places(begin)
        return self._cuts[begin]

    def cut(self, begin: int) -> torch.Tensor:
        """What `timesteps[begin:]` is before a run, which may begin there: its first timestep will tell."""
        self._cut = begin
        return self.places(begin).timesteps[begin:]

    def enter(self, sigma: float) -> None:
        """The next run's first model call is made at noise level `sigma`: where a cut of `timesteps` begins, it does."""
        if self.step_index is None and self._cut:
            cut, whole = (self.places(begin) for begin in (self._cut, 0))
            first, other = (abs(places.plan.calls[0].sigma - sigma) for places in (cut, whole))
            self._run = Run(self.base, cut if first < other else whole)

    def __len__(self) -> int:
        return len(self.base)

    # ---- What it is -------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        if "base" not in self.__dict__:
            raise AttributeError(f"'ForecastScheduler' object has no attribute {name!r}")
        return getattr(self.base, name)

    def stand_for(self, own: Any) -> None:
        """Stand in pipelines in the place of the sampler `own`, which is saved and pickled in the place of this one."""
        self.stands_for = own
        self.__class__ = _class(type(self.base), named=bases.plain_class(type(own)))

    def __copy__(self) -> ForecastScheduler:
        made = _blank(bases.plain_class(type(self.base)))
        made.__dict__.update(self.__dict__, base=_copied(self.base), stands_for=None)
        made.__dict__.update(_cuts={}, _steps=self._steps and replace(self._steps, base=made.base))
        made._run = self._run and self._run.copied(made.base)
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Another scheduler; in a copy of a pipeline, the sampler that the pipeline has without the patch."""
        if memo and self.stands_for is not None:
            return copy.deepcopy(self.stands_for, memo)
        return copy.copy(self)

    def save_config(self, *args: Any, **kwargs: Any) -> None:
        """As every scheduler does."""
        if self.stands_for is None:
            super().save_config(*args, **kwargs)
        else:
            self.stands_for.save_config(*args, **kwargs)

    def __reduce_ex__(self, protocol: int) -> Any:
        if self.stands_for is None:
            return super().__reduce_ex__(protocol)
        return operator.getitem, ([self.stands_for], 0)  # itself, said with nothing of ddit_ext

    def __reduce__(self) -> tuple:
        return _blank, (bases.plain_class(type(self.base)),), self.__dict__

    def _places_of(self, timestep: Any) -> Places:
        if self._begin_index is not None:
            return self.places(self._begin_index)
        for places in self._cuts.values():
            if shares_storage(timestep, places.timesteps):
                return places
        if self._cut and find_entry(timestep, self.places(self._cut).timesteps) == self._cut:
            return self.places(self._cut)  # a loop that has cast what it cut
        return self._run.places


def _class(base_class: type, named: type | None = None) -> type:
    return bases.class_like(ForecastScheduler, base_class, named or ForecastScheduler)


def _blank(base_class: type) -> ForecastScheduler:
    return object.__new__(_class(base_class))


def _assigned(name: str) -> AttributeError:
    return AttributeError(
        f"ForecastScheduler: {name} can't be assigned, as they are those of the model calls. Pass the {name} of all "
        f"steps to set_timesteps({name}=...), where the wrapped sampler takes them."
    )


def _copied(scheduler: Any) -> Any:
    made = object.__new__(bases.plain_class(type(scheduler)))
    made.__dict__.update(copied_lists(vars(scheduler)))
    for name, value in vars(scheduler).items():
        if bases.is_method_of(scheduler, value):
            vars(made)[name] = types.MethodType(value.__func__, made)
    return made
