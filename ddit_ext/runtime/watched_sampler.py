"""How one sampler is watched: it gets a subclass of its own class, whose `step` and `set_timesteps` are seen.

The class of the library stays as it is. A function in the instance's dictionary would go on in a shallow copy as the
original's; a method knows whose it is. So copies, and samplers made `from_config` of this one's class, are watched for
themselves, which is what servers do for each request.
"""

from __future__ import annotations

import copy
import copyreg
import functools
import inspect
import types
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..schedulers.bases import plain_class

if TYPE_CHECKING:
    from .sampler_watch import SamplerWatch

SEEN = ("set_timesteps", "step")


def watch_sampler(sampler: Any, watch: SamplerWatch) -> None:
    """From now on `watch.called` is asked at each call of the sampler's methods SEEN. Several patches may watch one."""
    watches = _watches(type(sampler))
    if watch not in watches:
        sampler.__class__ = _watched_class(plain_class(type(sampler)), (*watches, watch))


def leave_sampler(sampler: Any, watch: SamplerWatch) -> None:
    """No longer; without any watch it is of its own class. What others put on the instance stays."""
    rest = tuple(other for other in _watches(type(sampler)) if other is not watch)
    if rest:
        sampler.__class__ = _watched_class(plain_class(type(sampler)), rest)
        return
    for name in SEEN:
        own = vars(sampler).get(name)
        if isinstance(getattr(own, "__func__", None), _Seen) and own.__self__ is sampler:
            del vars(sampler)[name]  # what somebody had read from it while it was watched, and put back
    sampler.__class__ = plain_class(type(sampler))


def _watches(cls: type) -> tuple[SamplerWatch, ...]:
    found = (ref() for ref in getattr(cls, "_ddit_watches", ()))
    return tuple(watch for watch in found if watch is not None and not watch.removed)


def _watched_class(plain: type, watches: tuple[SamplerWatch, ...]) -> type:
    known = watches[-1].classes
    key = (plain, *map(id, watches))
    if key not in known:
        refs = tuple(map(weakref.ref, watches))
        body: dict[str, Any] = {
            name: _Method(name, plain, refs) for name in SEEN if callable(getattr(plain, name, None))
        }
        body |= {
            "__module__": plain.__module__,
            "__qualname__": plain.__qualname__,
            "__doc__": plain.__doc__,
            "_ddit_plain": plain,
            "_ddit_watches": refs,
            "__copy__": _copied,
            "__deepcopy__": _copied,
            "__reduce_ex__": _reduced,
        }
        if not hasattr(plain, "scale_model_input"):  # Bria asks all classes but FlowMatchEuler itself for it
            body["scale_model_input"] = lambda self, sample, *_: sample
        known[key] = types.new_class(plain.__name__, (plain,), exec_body=lambda space: space.update(body))
    return known[key]


def _copied(self: Any, memo: dict[int, Any] | None = None) -> Any:
    """A copy as its own class makes it, which is watched, too. The original may be at work in another thread."""
    plain = plain_class(type(self))
    name = "__copy__" if memo is None else "__deepcopy__"
    own = getattr(plain, name, None)
    if own is not None:
        made = own(self) if memo is None else own(self, memo)
    else:
        made = object.__new__(plain)
        if memo is not None:
            memo[id(self)] = made
        state = dict(vars(self))
        vars(made).update(state if memo is None else copy.deepcopy(state, memo))
    for watch in _watches(type(self)):  # a ForecastScheduler may give a sampler of another class
        watch_sampler(made, watch)
    return made


def _reduced(self: Any, protocol: int) -> Any:
    """A pickled sampler has its own class."""
    plain = plain_class(type(self))
    if plain.__reduce_ex__ is not object.__reduce_ex__ or plain.__reduce__ is not object.__reduce__:
        made, arguments, *rest = plain.__reduce_ex__(self, protocol)
        return made, tuple(plain if each is type(self) else each for each in arguments), *rest
    return copyreg._reconstructor, (plain, object, None), dict(vars(self))


class _Method:
    """A method of a watched class. Others may still put a function of their own on an instance, before or after."""

    def __init__(self, name: str, plain: type, watches: tuple[weakref.ref[SamplerWatch], ...]) -> None:
        self._name, self._plain, self._watches = name, plain, watches

    def __get__(self, sampler: Any, cls: type) -> Any:
        if sampler is None:
            return getattr(self._plain, self._name)
        own = vars(sampler).get(self._name)
        return types.MethodType(
            _Seen(self._name, getattr(self._plain, self._name), own, self._watches), sampler
        )

    def __set__(self, sampler: Any, value: Any) -> None:
        vars(sampler)[self._name] = value

    def __delete__(self, sampler: Any) -> None:
        if self._name not in vars(sampler):
            raise AttributeError(self._name)
        del vars(sampler)[self._name]


class _Seen:
    """One method as it is read from a sampler. own: what stands on the instance in its place."""

    def __init__(
        self, name: str, plain: Callable, own: Callable | None, watches: tuple[weakref.ref[SamplerWatch], ...]
    ) -> None:
        functools.update_wrapper(self, plain, updated=())
        self._name, self._plain, self._own, self._watches = name, plain, own, watches
        if own is not None:  # as bound methods are, without `self`
            first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
            signature = inspect.signature(own)
            self.__signature__ = signature.replace(parameters=[first, *signature.parameters.values()])

    def __call__(self, sampler: Any, *args: Any, **kwargs: Any) -> Any:
        method = self._own or functools.partial(self._plain, sampler)
        for ref in self._watches:
            watch = ref()
            if watch is not None:
                method = functools.partial(watch.called, self._name, sampler, method)
        return method(*args, **kwargs)
