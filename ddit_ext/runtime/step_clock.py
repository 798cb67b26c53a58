"""How long steps take, without a wait for the device: on a GPU events are read when they have come to pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from ..reports.report import StepRecord


class HostMarks:
    """Moments by a clock of the host, in seconds."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.mark = now

    def between(self, start: float, end: float, wait: bool) -> float:
        """Seconds from one moment to another."""
        return end - start


class DeviceMarks:
    """Moments in the work that a GPU was given so far: events on its current stream. cuda: `torch.cuda`, or its stand-in."""

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        self._device, self._cuda = device, cuda

    def mark(self) -> Any:
        """Now, in the device's work."""
        event = self._cuda.Event(enable_timing=True)
        event.record(self._cuda.current_stream(self._device))
        return event

    def between(self, start: Any, end: Any, wait: bool) -> float | None:
        """Seconds from one moment to another; None where the device has not come so far and nobody shall wait."""
        if wait:
            end.synchronize()
        return start.elapsed_time(end) / 1000 if end.query() else None


Marks = HostMarks | DeviceMarks


def marks_of(device: torch.device) -> Marks:
    """What times steps on a device."""
    return DeviceMarks(device) if device.type == "cuda" else HostMarks()


class StepClock:
    """Puts seconds into the records of one run's steps."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._open: list[tuple[StepRecord, Any, Any, bool]] = []

    def lasted(self, step: StepRecord, start: Any, end: Any, over: bool) -> None:
        """A step has lasted from `start` to `end` at least; over: it won't last longer."""
        if self._open and self._open[-1][0] is step:
            self._open.pop()
        self._open.append((step, start, end, over))

    def read(self, wait: bool = False) -> list[StepRecord]:
        """Write down what is known by now, or with a wait all of it; the steps that are over, each told once."""
        told = []
        while self._open:
            step, start, end, over = self._open[0]
            seconds = self._marks.between(start, end, wait)
            if seconds is None:
                break
            step.seconds = seconds
            self._open.pop(0)
            if over:
                told.append(step)
        return told
