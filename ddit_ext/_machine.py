"""What steps are timed on, and by."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch


def device_name(device: torch.device | str) -> str:
    """The GPU's name, or the processor's with its number of cores."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _processor() or device.type


@cache
def _processor() -> str:
    """Its name and number of cores; cached, since on many cores the file takes its time."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} x {len(names)}" if names else platform.processor()


def clock_of(device: torch.device | str) -> Callable[[], float]:
    """Seconds, read when the device has done all that it was given."""
    device = torch.device(device)
    if device.type != "cuda":
        return time.perf_counter

    def waited() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return waited


def device_of(pipe: Any) -> torch.device:
    """Where a pipeline computes, which with offloading isn't where its weights lie."""
    return getattr(pipe, "_execution_device", None) or pipe.transformer.device
