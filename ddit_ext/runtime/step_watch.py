"""What stands in for `step` on a sampler that is watched."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

Seen = Callable[[Any, tuple, dict, Any], None]
"""scheduler, arguments, result."""


class StepWatch:
    """Stands in for `step` on one scheduler instance: calls it as it is, then shows what came and went."""

    def __init__(self, scheduler: Any, seen: Seen) -> None:
        self._scheduler = weakref.ref(scheduler)
        self._own = scheduler.__dict__.get("step")  # another wrapper on the instance stays in place
        self.seen: Seen | None = seen
        functools.update_wrapper(self, scheduler.step, updated=())
        scheduler.step = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        scheduler = self._scheduler()
        step = self._own or functools.partial(type(scheduler).step, scheduler)
        result = step(*args, **kwargs)
        if self.seen is not None:
            self.seen(scheduler, args, kwargs, result)
        return result

    def remove(self) -> None:
        """Put back what was there; where others have wrapped this since, only look away."""
        self.seen = None
        scheduler = self._scheduler()
        if scheduler is not None and scheduler.__dict__.get("step") is self:
            own = self._own
            while isinstance(own, StepWatch) and own.seen is None:  # of a patch that ended before this one
                own = own._own
            if own is not None:
                scheduler.step = own
            else:
                del scheduler.step

    def __reduce__(self) -> tuple:
        # A copied scheduler (the copy is already known to copy and pickle here) gets its own class's step.
        return _plain_step, (self._scheduler(),)


def _plain_step(scheduler: Any) -> Any:
    return getattr(scheduler, "step", None)
