"""The `ddit` command: one module a subcommand, each with `add(subcommands)` and a function that runs it."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence

from . import calibrate, info, train

SUBCOMMANDS = (calibrate, info, train)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status: 0, 1 for what went wrong, 2 for arguments that can't be read."""
    parser = argparse.ArgumentParser(
        prog="ddit", description="Fewer model calls, or larger patches, for diffusion transformers."
    )
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")
    for subcommand in SUBCOMMANDS:
        subcommand.add(subcommands)
    parsed = parser.parse_args(arguments)
    # diffusers 0.35 does not know its new name yet.
    warnings.filterwarnings("ignore", "`torch_dtype` is deprecated", FutureWarning)
    try:
        return parsed.run(parsed)
    except (ValueError, TypeError, RuntimeError, NotImplementedError, OSError, ModuleNotFoundError) as error:
        print(f"ddit: {error}", file=sys.stderr)
        return 1
