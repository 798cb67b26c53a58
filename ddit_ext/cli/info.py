"""`ddit info`: what was built and what it runs on."""

from __future__ import annotations

import argparse
from dataclasses import asdict


def add(subcommands: argparse._SubParsersAction) -> None:
    """Declare the subcommand."""
    parser = subcommands.add_parser("info", help="what was built, and what it runs on")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print `ddit_ext.build_info()`."""
    from .. import build_info

    for name, value in asdict(build_info()).items():
        shown = ", ".join(value) or "none" if isinstance(value, tuple) else value
        print(f"{name:<14} {shown}")
    return 0
