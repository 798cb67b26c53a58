"""Timing shared by the benchmarks: candidates take turns, so that a busy machine slows them all alike."""

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path

import torch

import ddit_ext
from ddit_ext._machine import device_name


def interleaved(candidates: Mapping[str, Callable[[], object]], rounds: int = 30, warmup: int = 3) -> dict:
    """Each candidate once a round, `rounds` times.

    Returns {name: {"median_s", "min_s", "ratio"}}. ratio: this candidate's time over the first candidate's in
    the same round, the median over the rounds.
    """
    times = {name: [] for name in candidates}
    for index in range(warmup + rounds):
        for name, call in candidates.items():
            _synchronize()
            start = time.perf_counter()
            call()
            _synchronize()
            if index >= warmup:
                times[name].append(time.perf_counter() - start)
    base = times[next(iter(candidates))]
    return {
        name: {
            "median_s": statistics.median(taken),
            "min_s": min(taken),
            "ratio": statistics.median(mine / theirs for mine, theirs in zip(taken, base, strict=True)),
        }
        for name, taken in times.items()
    }


def show(title: str, results: Mapping[str, Mapping[str, float]]) -> None:
    print(title)
    for name, result in results.items():
        print(f"  {name:<32} {result['median_s'] * 1e3:9.3f} ms   x{result['ratio']:.3f}")


def write_json(path: str | Path, results: object) -> None:
    """The results with what is needed to judge and repeat them."""
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


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
