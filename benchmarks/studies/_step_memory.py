"""The memory of training steps: what is held between them, and what a step needs beyond that."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ddit_ext.training.trainer import Trainer


class StepMemory:
    """What the steps inside :meth:`watch` needed: the largest amount that one needed beyond what was there when it began.

    On a GPU as PyTorch's allocator counts it; with glibc by the resident pages of the process, elsewhere it is not known.
    Until :meth:`stop` glibc gives larger tensors pages of their own, which go back when they are freed: from the start,
    since what is free in its heap is used first. That makes steps slower.

    Attributes:
        working: bytes, or None.
        peak: on a GPU, the most that was allocated at all; else None.
        held: bytes between two steps by part, counted tensor by tensor.
    """

    def __init__(self) -> None:
        self.working: int | None = None
        self.peak: int | None = None
        self.held: dict[str, int] = {}
        self._glibc = platform.libc_ver()[0] == "glibc"
        if self._glibc:
            _own_pages_from(64 * 1024)

    def stop(self) -> None:
        """Let glibc do as it does by itself where such tensors come and go."""
        if self._glibc:
            _own_pages_from(32 * 1024 * 1024)

    @contextmanager
    def watch(self, trainer: Trainer) -> Iterator[None]:
        """Around one step of ``trainer``."""
        cuda = trainer.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(trainer.device)
            before = torch.cuda.memory_allocated(trainer.device)
        elif self._glibc:
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark begins anew
            before = _resident("VmRSS")
        else:
            yield
            return
        yield
        after = torch.cuda.max_memory_allocated(trainer.device) if cuda else _resident("VmHWM")
        self.working = max(self.working or 0, after - before)
        self.peak = max(self.peak or 0, after) if cuda else None
        moments = [value for state in trainer.optimizer.state.values() for value in state.values()]
        weights = list(trainer.parameters.values())
        self.held = {
            "base": _bytes([*trainer.transformer.parameters(), *trainer.transformer.buffers()]),
            "adapter": _bytes(
                [*weights, *(weight.grad for weight in weights), *moments, *trainer.average.values()]
            ),
        }


def _bytes(tensors: Iterable[object]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))


def _own_pages_from(size: int) -> None:
    """Let glibc give allocations of ``size`` bytes and more pages of their own."""
    trim_threshold, mmap_threshold = -1, -3
    library = ctypes.CDLL(None)
    library.mallopt(mmap_threshold, size)
    library.mallopt(trim_threshold, 2 * size)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return int(kilobytes) * 1024
