"""How long the device takes for a call, whatever the host takes to ask for it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from _timing import wall_clock

FIRST_SLEEP = 200_000  # clock cycles of the device, about 0.1 ms
LONGEST_SLEEP = 50_000_000  # about 25 ms: no call here takes the host longer


class DeviceClock:
    """Times a call by events on the device's stream: a function from a call to seconds, for `interleaved`.

    Before each call
    * the device sleeps until the host has queued the whole call, so that the gaps between launches don't count;
    * the L2 cache is filled with clean lines of a buffer four times its size. Read, not written: lines that are
      still to be written back would be charged to the call.
    """

    def __init__(self) -> None:
        size = 4 * torch.cuda.get_device_properties(0).L2_cache_size
        self._buffer = torch.ones(max(size, 1 << 26) // 4, dtype=torch.float32, device="cuda")
        self._sum = torch.empty((), dtype=torch.float32, device="cuda")
        self._sleep = FIRST_SLEEP
        self.host_s = 0.0  # what the host took for the last call

    def __call__(self, call: Callable[[], object]) -> float:
        while True:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            torch.cuda._sleep(self._sleep)
            torch.sum(self._buffer, 0, out=self._sum)
            begin.record()
            started = time.perf_counter()
            call()
            self.host_s = time.perf_counter() - started
            asleep = not begin.query()
            end.record()
            torch.cuda.synchronize()
            if asleep or self._sleep >= LONGEST_SLEEP:
                return begin.elapsed_time(end) * 1e-3
            self._sleep *= 2


def clock_of(device: str) -> Callable[[Callable[[], object]], float]:
    """The clock of a device: events on a GPU, the wall clock on the CPU."""
    return DeviceClock() if device == "cuda" else wall_clock


def warm_up(device: str, seconds: float = 0.7) -> None:
    """Matrix products until the GPU's clocks are up; nothing on the CPU."""
    if device != "cuda":
        return
    a = torch.randn(4096, 4096, device=device, dtype=torch.bfloat16)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        a @ a
        torch.cuda.synchronize()
