"""What the hooks of all patches share: how they come between a transformer and its callers, warnings, the clock."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from ..reports.report import RunRecord
from .forecast_sampler import ForecastSampler
from .patched_call import PatchedCall, install


class Hook:
    """Stands between the transformers of one pipeline and those who call them.

    sampler: of a forecast, which stands in the pipeline while the hook is installed.

    Attributes:
        record: the run under way, or the last one.
        now: seconds.
        lock: held during a call.
    """

    record: RunRecord | None
    lock: AbstractContextManager[Any]

    def __init__(self, sampler: ForecastSampler | None) -> None:
        self.sampler = sampler
        self.now: Callable[[], float] = time.perf_counter
        self._entries: list[PatchedCall] = []

    def enter(self, parts: Iterable[Any]) -> None:
        """Come between each transformer, or what torch.compile made of it (then outside of the graph), and its callers.

        parts: what `begin_call` is called with; each has a `module`.
        """
        for part in parts:
            self._entries += install(self, part)
        if self.sampler is not None:
            self.sampler.install()

    def leave(self) -> None:
        """Step aside again, also with a forecast's sampler."""
        for entry in self._entries:
            entry.remove()
        self._entries = []
        if self.sampler is not None:
            self.sampler.remove()

    def warn(self, text: str) -> None:
        """Tell the user, once a run, and write it into the report."""
        if self.record is None or text not in self.record.warnings:
            if self.record is not None:
                self.record.warnings.append(text)
            warnings.warn(f"ddit_ext: {text}", stacklevel=2)

    def add_forecast_steps(self) -> None:
        """Write down the steps between the last computed one and the next."""
        if self.sampler is not None and self.sampler.in_place and self.record is not None:
            steps = self.record.steps
            steps += self.sampler.forecast_steps(len(steps), len(steps[-1].scales))
