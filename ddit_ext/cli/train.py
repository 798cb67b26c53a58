"""`ddit train`: distil an adapter as a YAML file says."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from .._quiet import quiet_libraries
from .calibrate import EMBEDDED


def add(subcommands: argparse._SubParsersAction) -> None:
    """Declare the subcommand."""
    parser = subcommands.add_parser(
        "train",
        help="distil an adapter for a model",
        description="Train the patch sizes of a frozen model against the model itself, as a YAML file says. "
        "For several GPUs: accelerate launch -m ddit_ext.cli train CONFIG.",
    )
    add_arguments(parser)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of a training, and the function that runs it."""
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, like those in examples/train/")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help='replace a value of the file: "training.lr=1e-4"; may be given several times',
    )
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument(
        "--dry-run", action="store_true", help="print parameters, memory, disk and time; train nothing"
    )
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="for --dry-run (default: 1)")
    parser.add_argument("--fsdp", action="store_true", help="for --dry-run: the base is shared out")
    parser.add_argument(
        "--tflops",
        type=float,
        metavar="N",
        help="for --dry-run: sustained TFLOP/s of a GPU; default: hours for several kinds of GPU, by assumption",
    )
    parser.set_defaults(run=run)


@quiet_libraries(progress=True)
def run(arguments: argparse.Namespace) -> int:
    """Train, or print what it would cost; 130 or 143 where SIGINT or SIGTERM ended it."""
    from ..training.settings_file import read_settings

    settings = read_settings(arguments.config, arguments.overrides)
    if arguments.dry_run:
        from ..training.estimate import estimate

        if arguments.gpus < 1 or not (arguments.tflops is None or arguments.tflops > 0):
            raise ValueError(
                f"--gpus and --tflops must be positive, got {arguments.gpus} and {arguments.tflops}"
            )
        print(estimate(settings, arguments.gpus, arguments.tflops, arguments.fsdp))
        return 0
    path = settings.model.path
    if not path.startswith(EMBEDDED) and not Path(path).exists() and os.environ.get("RANK", "0") == "0":
        print(f"ddit train: {path} is no folder here: looking it up on the hub", file=sys.stderr)
    from ..training.interrupt import Interrupted
    from ..training.run import train

    try:
        train(settings, resume=arguments.resume)
    except Interrupted as error:
        print(f"ddit train: {error}", file=sys.stderr)
        return error.status
    return 0
