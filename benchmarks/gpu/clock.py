"""How long the device takes for a call, whatever the host takes to ask for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from _timing import wall_clock

FIRST_SLEEP = 200_000  # clock cycles of the device, about 0.1 ms
LONGEST_SLEEP = 12_800_000  # about 7 ms: a call that takes the host longer waits for the device itself


class DeviceClock:
    """Times a call by events on the device's stream: a function from a call to seconds, for `interleaved`.

    Before each call
    * the device sleeps until the host has queued the whole call, so that the gaps between launches don't count
      (but for a call that waits for the device in its middle, whose gaps are its own);
    * with `flush` the L2 cache is filled with clean lines of a buffer four times its size. Read, not written: lines that are
      still to be written back would be charged to the call.
    """

    def __init__(self, flush: bool = True) -> None:
        """flush: False leaves in the L2 cache what the call before left there."""
        self._flush = flush
        size = 4 * torch.cuda.get_device_properties(0).L2_cache_size
        self._buffer = torch.ones(max(size, 1 << 26) // 4, dtype=torch.float32, device="cuda")
        self._sum = torch.empty((), dtype=torch.float32, device="cuda")
        self._sleeps: WeakKeyDictionary[Callable[[], object], int] = WeakKeyDictionary()

    def __call__(self, call: Callable[[], object]) -> float:
        if call not in self._sleeps:
            call()  # whatever is loaded, compiled or chosen at a first call
            self._sleeps[call] = self._sleep_that_hides(call)
        return self._once(call, self._sleeps[call])[0]

    def _sleep_that_hides(self, call: Callable[[], object]) -> int:
        """Cycles in which the host queues the call, with as much again to spare; the first where none do."""
        sleep = FIRST_SLEEP
        while sleep <= LONGEST_SLEEP:
            if self._once(call, sleep)[1]:
                return 2 * sleep
            sleep *= 2
        return FIRST_SLEEP

    def _once(self, call: Callable[[], object], sleep: int) -> tuple[float, bool]:
        """Seconds, and whether the device still slept when the host had queued the call."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        torch.cuda._sleep(sleep)
        if self._flush:
            torch.sum(self._buffer, 0, out=self._sum)
        begin.record()
        call()
        asleep = not begin.query()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) * 1e-3, asleep


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
