"""Where the time of one call goes on the device: kernels by name, and how long the device waits for the host."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.autograd import DeviceType

from .part import Part

CALLS = 3
MOST = 30  # kernels that are named


def measure(part: Part, name: str, calls: dict[str, Callable[[], Any]]) -> None:
    """`calls` of the model `name` under torch.profiler, CALLS of each in a row; written after each."""
    found = part.results[name].setdefault("profile", {})
    for what, call in calls.items():
        found[what] = profiled(call, part.device)
        part.save()


def profiled(call: Callable[[], Any], device: str) -> dict[str, Any]:
    """For one call: {"wall_ms", "busy_ms", "busy", "launches", "kernels": [[name, launches, ms], ...]}."""
    activity = torch.profiler.ProfilerActivity
    on_gpu = device == "cuda"
    call()
    _synchronize(on_gpu)
    kinds = [activity.CPU, activity.CUDA] if on_gpu else [activity.CPU]
    with torch.profiler.profile(activities=kinds) as profile:
        for _ in range(CALLS):
            call()
        _synchronize(on_gpu)
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    events = [
        (event.name, event.time_range.start, event.time_range.end)
        for event in profile.events()
        if event.device_type == kind and (on_gpu or event.cpu_parent is None)
    ]
    return summary(events, CALLS)


def summary(events: Iterable[tuple[str, float, float]], calls: int) -> dict[str, Any]:
    """events: name, begin and end in µs, of `calls` calls in a row."""
    events = sorted(events, key=lambda event: event[1])
    if not events:
        return {"wall_ms": 0.0, "busy_ms": 0.0, "busy": None, "launches": 0, "kernels": []}
    busy, until = 0.0, events[0][1]
    by_name: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    for name, begin, end in events:
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
        by_name[name][0] += 1
        by_name[name][1] += end - begin
    wall = until - events[0][1]
    largest = sorted(by_name.items(), key=lambda item: -item[1][1])[:MOST]
    return {
        "wall_ms": wall / calls / 1e3,
        "busy_ms": busy / calls / 1e3,
        "busy": busy / wall if wall else None,
        "launches": len(events) / calls,
        "kernels": [[name[:120], count / calls, time / calls / 1e3] for name, (count, time) in largest],
    }


def _synchronize(on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.synchronize()
