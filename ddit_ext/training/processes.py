"""The processes of a run, and the frozen base shared out over them.

Every process has the whole adapter and the same optimiser; the gradients are summed over all of them before the
step. The adapter is never called as a module (its weights stand in for the base's layers, one patch size at a
time), so the sum is taken here and not by DistributedDataParallel.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator, FullyShardedDataParallelPlugin


class Processes:
    """One process, or those that ``accelerate launch`` started.

    Attributes:
        count: of processes.
        rank: of this one.
        main: whether this one writes the files.
    """

    def __init__(self, accelerator: Accelerator | None = None):
        self._accelerator = accelerator
        self.count = 1 if accelerator is None else accelerator.num_processes
        self.rank = 0 if accelerator is None else accelerator.process_index
        self.main = self.rank == 0

    def gather(self, tensor: Tensor) -> Tensor:
        """Tensors [n, ...] of all processes, one after the other: [count·n, ...]; n must be the same in all."""
        return tensor if self.count == 1 else self._accelerator.gather(tensor)

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace every tensor by its sum over the processes. All are sent as one."""
        tensors = list(tensors)
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
        flat = self._accelerator.reduce(flat, reduction="sum")
        for tensor, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def highest(self, value: int) -> int:
        """The highest of the processes' values."""
        if self.count == 1:
            return value
        own = torch.tensor([value], device=self._accelerator.device)
        return int(self._accelerator.gather(own).max())

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            self._accelerator.wait_for_everyone()


def shard(transformer: nn.Module, plugin: FullyShardedDataParallelPlugin) -> None:
    """Share the parameters of ``transformer`` out over the processes, block by block (PyTorch's fully_shard).

    ``accelerate launch --use_fsdp --fsdp_version 2`` asks for it. The blocks are those in the model's own lists of
    blocks, whatever wrapping policy the ``plugin`` names.

    Raises:
        ValueError: version 1 of FSDP, which renames the parameters of the base.
    """
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

    if getattr(plugin, "fsdp_version", 1) != 2:
        raise ValueError("FSDP: expected fsdp_version 2 (accelerate launch --fsdp_version 2), got 1")
    policy = plugin.cpu_offload if isinstance(plugin.cpu_offload, CPUOffloadPolicy) else OffloadPolicy()
    for child in transformer.children():
        if isinstance(child, nn.ModuleList):
            for block in child:
                fully_shard(block, offload_policy=policy)
    fully_shard(transformer, offload_policy=policy)
