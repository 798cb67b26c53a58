"""One of several processes that distil the tiny FLUX together through gloo, first with the whole base in each of
them, then with a sharded one:

    RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=... MASTER_PORT=... python training_process.py FOLDER
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from tiny_flux import tiny_flux, training_batch

from ddit_ext.multiscale import Adapter
from ddit_ext.training import DistillConfig, distill
from ddit_ext.training.processes import shard

CONFIG = DistillConfig(
    steps=3,
    lr=3e-3,
    warmup=2,
    log_every=1,
    ema=0.9,
    normalise="level",
    noise_range={4: (0.6, 1.0)},
)


def train(folder, accelerator=None, sharded=False):
    """Distil with the same four samples a step, however many processes share them."""
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
        latents, text = training_batch(step)
        part = slice(rank * len(latents) // processes, (rank + 1) * len(latents) // processes)
        return latents[part], {name: value[part] for name, value in text.items()}

    return distill(
        transformer, adapter, batch, CONFIG, out_dir=folder, progress=False, accelerator=accelerator
    )


def main():
    folder = Path(sys.argv[1])
    accelerator = Accelerator(cpu=True)
    train(folder / "whole", accelerator)
    train(folder / "sharded", accelerator, sharded=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
