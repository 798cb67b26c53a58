"""Several processes that distil the tiny FLUX together through gloo, first with the whole base in each of them, also on
pictures of several sizes, then with a sharded one, also in a run that is stopped and goes on:

    MASTER_ADDR=127.0.0.1 MASTER_PORT=... python training_process.py FOLDER PROCESSES

They are forked from one that has everything imported and has not computed anything.
"""

import os
from dataclasses import replace

import torch
import torch.distributed.fsdp  # before the fork: it is large
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from processes import fork
from tiny_flux import conditions, tiny_flux, training_batch

from ddit_ext.coarse import Adapter
from ddit_ext.training import DistillConfig, distill
from ddit_ext.training.data.cache import CachedData, Shard, build
from ddit_ext.training.processes import Processes, shard

CONFIG = DistillConfig(
    steps=3,
    lr=3e-3,
    warmup=2,
    log_every=1,
    ema=0.9,
    normalise="level",
    noise_range={4: (0.6, 1.0)},
)


class Stopped(Exception):
    """A run came to the step at which it was to be stopped."""


def mixed_sizes(folder, accelerator=None):
    """A cache of seven latents of three sizes, for four samples a step."""

    def make(number):
        generator = torch.Generator().manual_seed(number)
        return Shard(
            {
                f"{height}x{width}": {
                    "latents": torch.randn(count, 4, height, width, generator=generator),
                    "row": torch.arange(count),
                    **conditions(count),
                }
                for height, width, count in ((8, 8, 4), (8, 12, 2), (12, 8, 1))
            },
            [],
        )

    processes = Processes(accelerator)
    build(folder, 1, make, lambda: conditions(1), processes)
    return CachedData(folder, 1, 4 // processes.count, together=processes.count)


def train(folder, accelerator=None, sharded=False, config=CONFIG, first=0, stop=None, data=None):
    """Distil with the same four samples a step, however many processes share them, from the step ``first`` on; Stopped
    at the step ``stop``. Or with ``data``.
    """
    torch.set_num_threads(1)
    transformer = tiny_flux()
    adapter = Adapter.create(transformer, rank=2)
    processes = accelerator.num_processes if accelerator is not None else 1
    if sharded:
        shard(transformer, FullyShardedDataParallelPlugin(fsdp_version=2))
        assert (
            transformer.x_embedder.weight.to_local().shape[0] * processes
            == transformer.x_embedder.out_features
        )

    def batch(number):
        step, rank = divmod(number, processes)
        assert step >= first
        if step == stop:
            raise Stopped
        latents, text = training_batch(step)
        part = slice(rank * len(latents) // processes, (rank + 1) * len(latents) // processes)
        return latents[part], {name: value[part] for name, value in text.items()}

    return distill(
        transformer, adapter, data or batch, config, out_dir=folder, progress=False, accelerator=accelerator
    )


def take_part(folder, rank, processes):
    """The life of one process."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    accelerator = Accelerator(cpu=True)
    train(folder / "whole", accelerator)
    train(folder / "mixed", accelerator, data=mixed_sizes(folder / "cache", accelerator))
    train(folder / "sharded", accelerator, sharded=True)
    often = replace(CONFIG, checkpoint_every=1)
    try:
        train(folder / "resumed", accelerator, sharded=True, config=often, stop=2)
    except Stopped:
        train(folder / "resumed", accelerator, sharded=True, config=often, first=2)
    try:  # folders that are not shared: one process has checkpoints up to step 3, the other has none
        train(folder / ("resumed" if rank == 0 else "elsewhere"), accelerator, config=often)
    except ValueError as error:
        (folder / f"unshared-{rank}.txt").write_text(str(error))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    fork(take_part)
