"""Timing shared by the benchmarks: candidates take turns, so that a busy machine slows them all alike."""

import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch


def wall_clock(call: Callable[[], object]) -> float:
    """Seconds of one call, until the device has done what it queued."""
    _synchronize()
    start = time.perf_counter()
    call()
    _synchronize()
    return time.perf_counter() - start


def interleaved(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int = 30,
    warmup: int = 3,
    clock: Callable[[Callable[[], object]], float] = wall_clock,
) -> dict:
    """Each candidate once a round, `rounds` times.

    Returns {name: {"median_s", "low_s", "high_s", "min_s", "ratio", "ratio_low", "ratio_high"}}. ratio: this
    candidate's time over the first candidate's in the same round, the median over the rounds. low, high: 95 %
    intervals of the medians.
    """
    times = {name: [] for name in candidates}
    for index in range(warmup + rounds):
        for name, call in candidates.items():
            seconds = clock(call)
            if index >= warmup:
                times[name].append(seconds)
    return against_first(times)


def against_first(times: Mapping[str, Sequence[float]]) -> dict:
    """What `interleaved` returns, from the seconds of each candidate in each round."""
    base = times[next(iter(times))]
    results = {}
    for name, taken in times.items():
        ratios = [mine / theirs for mine, theirs in zip(taken, base, strict=True)]
        low, high = median_interval(taken)
        ratio_low, ratio_high = median_interval(ratios)
        results[name] = {
            "median_s": statistics.median(taken),
            "low_s": low,
            "high_s": high,
            "min_s": min(taken),
            "ratio": statistics.median(ratios),
            "ratio_low": ratio_low,
            "ratio_high": ratio_high,
        }
    return results


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The narrowest interval of the median from the order of the values alone that holds with 95 %.

    For fewer than 6 values no interval does: it is their whole range.
    """
    ordered = sorted(values)
    count = len(ordered)
    first, outside = 0, 2 * 0.5**count  # the median is beyond the first or the last value
    while first + 1 < count / 2:
        outside += 2 * math.comb(count, first + 1) * 0.5**count
        if outside > 0.05:
            break
        first += 1
    return ordered[first], ordered[count - 1 - first]


def show(title: str, results: Mapping[str, Mapping[str, float]]) -> None:
    print(title)
    for name, result in results.items():
        print(f"  {name:<32} {result['median_s'] * 1e3:9.3f} ms   x{result['ratio']:.3f}")


def write_json(path: str | Path, results: object) -> None:
    """The results with what is needed to judge and repeat them."""
    import ddit_ext  # here: what only measures needs no built package
    from ddit_ext._machine import device_name

    info = ddit_ext.build_info()
    record = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": device_name("cpu"),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ddit_ext": info.version,
        "compiler": info.compiler,
        "results": results,
    }
    Path(path).write_text(json.dumps(record, indent=2) + "\n")


class Taken:
    """Since it was made: the share of the cores' time that other machines on the host had, of Linux' account."""

    LIMIT = 0.05
    """What was timed while more was taken is timed again, where a benchmark can."""

    def __init__(self) -> None:
        self._began = _cpu_ticks()

    def share(self) -> float:
        stolen, ticks = (at - began for at, began in zip(_cpu_ticks(), self._began, strict=True))
        return stolen / max(ticks, 1)


def _cpu_ticks() -> tuple[int, int]:
    """Since the machine started: those taken, and all; 0, 0 off Linux."""
    try:
        first = Path("/proc/stat").read_text().splitlines()[0]
    except OSError:
        return 0, 0
    ticks = [int(field) for field in first.split()[1:9]]
    return ticks[7], sum(ticks)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
