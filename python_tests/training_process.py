"""One process of a distillation of the tiny FLUX, for tests that need several of them or kill one:

    python training_process.py FOLDER '{"steps": 6, ...}' [--samples N] [--shard] [--steps-file FILE]

With RANK and WORLD_SIZE in the environment it is one of several that talk through gloo.
"""

import argparse
import json
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from tiny_flux import conditions, smooth_latents, tiny_flux

from ddit_ext.multiscale import Adapter
from ddit_ext.training import DistillConfig, distill
from ddit_ext.training.processes import shard


def rows(step, first, count, samples):
    """``count`` of a step's ``samples``, the same whichever process asks for them."""
    part = slice(first, first + count)
    text = {name: value[part] for name, value in conditions(samples, seed=step).items()}
    return smooth_latents(samples, seed=step)[part], text


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("config", type=json.loads)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--shard", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    noise_range = {int(k): tuple(v) for k, v in arguments.config.pop("noise_range", {}).items()}
    config = DistillConfig(**arguments.config, noise_range=noise_range)
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2) if arguments.shard else None
    accelerator = Accelerator(cpu=True, fsdp_plugin=plugin)
    per_step = config.accumulate * accelerator.num_processes
    part = arguments.samples // per_step
    transformer = tiny_flux()
    adapter = Adapter.create(transformer, rank=2)
    if arguments.shard:
        shard(transformer, accelerator)

    def batch(number):
        step, position = divmod(number, per_step)
        return rows(step, position * part, part, arguments.samples)

    distill(
        transformer,
        adapter,
        batch,
        config,
        out_dir=arguments.folder,
        progress=False,
        accelerator=accelerator,
    )
    if accelerator.num_processes > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
