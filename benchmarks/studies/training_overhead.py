"""What data and bookkeeping cost of a training step, and where a step's memory is.

    python benchmarks/studies/training_overhead.py examples/train/embedded_flux.yaml --steps 60 --out overhead.json

Trains as `ddit train` does, into a temporary folder, and times the computing in each step: the teacher's pass, the
students' passes with their gradients, the optimiser. The rest of the time between two lines of the log is reading data,
drawing noise, clipping, the average, the log (a line a step) and the loop; checkpoints are not in it. Memory, in the steps of
the warm-up: what is held between steps, counted tensor by tensor, and what a step needs beyond that, beside the parts that
`--dry-run` estimates. The data are made first, into the cache that the file names, which is not timed; on two cores
`--set data.prompts=FILE` with four prompts keeps that short.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
import torch
from _step_memory import StepMemory
from _timing import write_json

from ddit_ext.training import trainer
from ddit_ext.training.estimate import estimate
from ddit_ext.training.run import train
from ddit_ext.training.settings_file import read_settings


class Clock:
    """Seconds spent in the functions that it was put around, all calls together."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.before_step: list[float] = []  # the seconds so far when each step begins

    def around(self, owner: Any, name: str) -> None:
        """Put the clock around the function ``name`` of a module or class."""
        timed: Callable[..., Any] = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            _wait()
            since = time.perf_counter()
            try:
                return timed(*args, **kwargs)
            finally:
                _wait()
                self.seconds += time.perf_counter() - since

        setattr(owner, name, call)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _mebibytes(size: float | None) -> str:
    return "not known" if size is None else f"{size / 2**20:.1f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--warmup", type=int, default=10, help="steps whose time is not counted")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    if not 3 <= arguments.warmup < arguments.steps:
        parser.error(
            f"--warmup must be at least 3 and below --steps, got {arguments.warmup} of {arguments.steps}"
        )
    settings = read_settings(arguments.config, arguments.overrides)
    training = replace(
        settings.training, steps=arguments.steps, checkpoint_every=arguments.steps, log_every=1
    )
    clock, memory = Clock(), StepMemory()
    clock.around(trainer, "teacher_velocity")
    clock.around(trainer.Trainer, "_learn")
    clock.around(torch.optim.AdamW, "step")
    step_of = trainer.Trainer.step

    def step(self: Any, number: int, batches: Any) -> Any:
        clock.before_step.append(clock.seconds)
        watched = 0 < number < arguments.warmup - 1  # the first step makes the optimiser's moments
        if number == arguments.warmup - 1:
            memory.stop()
        with memory.watch(self) if watched else nullcontext():
            return step_of(self, number, batches)

    trainer.Trainer.step = step
    with tempfile.TemporaryDirectory() as folder:
        output = replace(settings.output, folder=folder, trackers=(), sample_every=0, push_to_hub=None)
        settings = replace(settings, training=training, output=output)
        lines = train(settings).log
    seconds = sum(line["seconds"] for line in lines[arguments.warmup :])
    computing = clock.seconds - clock.before_step[arguments.warmup]
    counted = len(lines) - arguments.warmup
    results: dict[str, Any] = {
        "steps": counted,
        "step_s": seconds / counted,
        "computing_s": computing / counted,
        "rest_share": 1 - computing / seconds,
        "estimated_memory_bytes": estimate(settings, 1, 1.0, False).memory,
        "held_memory_bytes": memory.held,
        "working_memory_bytes": memory.working,
        "peak_memory_bytes": memory.peak,
    }
    print(f"a step: {results['step_s']:.4f} s, {results['rest_share']:.1%} of it data and bookkeeping")
    measured = memory.held | {"activations": memory.working}
    for name, size in results["estimated_memory_bytes"].items():
        print(f"memory, {name}: {_mebibytes(measured.get(name))}, estimated {_mebibytes(size)}")
    print(f"memory, all that PyTorch allocated on the GPU at its peak: {_mebibytes(memory.peak)}")
    if arguments.out:
        write_json(arguments.out, results)


if __name__ == "__main__":
    main()
