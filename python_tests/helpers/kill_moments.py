"""Kills a distillation at random moments and lets it go on:

    python kill_moments.py FOLDER MOMENTS SEED

Runs are forked from this one process, which has everything imported and has not computed anything. Prints a line of
JSON: the seconds of a whole run, and for each killed run its moment and how many checkpoints were there.
"""

import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import torch
from tiny_flux import tiny_flux, training_batch

from ddit_ext.coarse import Adapter
from ddit_ext.training import DistillConfig, distill
from ddit_ext.training.checkpoint import checkpoints

CONFIG = DistillConfig(
    steps=6, lr=3e-3, warmup=2, ema=0.9, checkpoint_every=1, log_every=2, normalise="level"
)


def start(folder):
    """A process that trains in ``folder``, or goes on there; any warning of a damaged file ends it."""
    process = os.fork()
    if process:
        return process
    try:
        torch.set_num_threads(1)
        warnings.filterwarnings("error", message=".*checkpoint")
        transformer = tiny_flux()
        adapter = Adapter.create(transformer, rank=2)
        distill(transformer, adapter, training_batch, CONFIG, out_dir=folder, progress=False)
    except BaseException as error:
        print(f"{folder}: {error!r}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def finish(folder):
    process = start(folder)
    if os.waitpid(process, 0)[1] != 0:
        raise SystemExit(f"the run in {folder} failed")


def main():
    folder, moments, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    since = time.monotonic()
    finish(folder / "through")
    seconds = time.monotonic() - since
    draw = random.Random(seed)
    killed = []
    for number in range(moments):
        place = folder / f"killed-{number}"
        moment = draw.uniform(0, seconds)
        process = start(place)
        time.sleep(moment)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        killed.append({"moment": moment, "checkpoints": len(checkpoints(place))})
        finish(place)
    print(json.dumps({"seconds": seconds, "killed": killed}))


if __name__ == "__main__":
    main()
