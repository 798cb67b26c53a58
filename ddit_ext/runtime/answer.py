"""Numbers that a device sends while the host goes on, read at the next call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Answer:
    """The elements of a tensor, on their way to the host. A CPU has them at once.

    cuda: `torch.cuda` for a tensor of a GPU, or what stands for it.
    """

    def __init__(self, values: Tensor, cuda: Any = None) -> None:
        self._values, self._there = values, None
        cuda = torch.cuda if values.is_cuda else cuda
        if cuda is not None:
            host = torch.empty(values.shape, dtype=values.dtype, device="cpu", pin_memory=values.is_cuda)
            self._values = host.copy_(values, non_blocking=True)
            self._there = cuda.Event()
            self._there.record(cuda.current_stream(values.device))

    def read(self) -> list:
        """As lists. Waits for the work that the device had been given when it was asked, and for no later one."""
        if self._there is not None:
            self._there.synchronize()
        return self._values.tolist()
