"""Stage `ceilings`: how fast this device copies and multiplies, measured: the floors of the ops come from here."""

from __future__ import annotations

import torch
from _timing import interleaved

from .clock import clock_of, warm_up
from .part import Part

ROUNDS = 15


def run(part: Part) -> None:
    clock = clock_of(part.device)
    warm_up(part.device)
    part.add(copy=_copy(part, clock))
    for name in ("bfloat16", "float16", "tf32", "float32"):
        part.add(**{name: _product(part, clock, name)})


def _copy(part: Part, clock) -> dict:
    """A large copy on the device; bytes read plus bytes written."""
    size = 1 << 20 if part.tiny else 1 << 32
    if part.device == "cuda":
        size = min(size, torch.cuda.mem_get_info()[0] // 4)
    source = torch.empty(size // 4, dtype=torch.int32, device=part.device).random_()
    target = torch.empty_like(source)
    timed = interleaved({"copy": lambda: target.copy_(source)}, 2 if part.tiny else ROUNDS, clock=clock)
    return {"bytes": 2 * source.nbytes, **_rate(2 * source.nbytes, timed["copy"], "bytes_per_s")}


def _product(part: Part, clock, name: str) -> dict:
    """A square matrix product of random numbers: zeros would run faster than data does."""
    side = 64 if part.tiny else 8192 if name != "float32" else 4096
    dtype = torch.float32 if name == "tf32" else getattr(torch, name)
    a, b = (torch.randn(side, side, device=part.device).to(dtype) for _ in range(2))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    try:
        timed = interleaved({"product": lambda: a @ b}, 2 if part.tiny else ROUNDS, clock=clock)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    return {"side": side, **_rate(2 * side**3, timed["product"], "flops_per_s")}


def _rate(amount: int, timed: dict, unit: str) -> dict:
    return {
        unit: amount / timed["median_s"],
        "low": amount / timed["high_s"],
        "high": amount / timed["low_s"],
        "median_s": timed["median_s"],
    }
