"""`python -m ddit_ext.training CONFIG`, and `accelerate launch -m ddit_ext.training CONFIG`: see `ddit train`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..cli.train import add_arguments


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a training; its exit status: 0, 1 for what went wrong, 2 for arguments that can't be read."""
    parser = argparse.ArgumentParser(prog="python -m ddit_ext.training", description="Distil an adapter.")
    add_arguments(parser)
    parsed = parser.parse_args(arguments)
    try:
        return parsed.run(parsed)
    except (ValueError, TypeError, NotImplementedError, OSError, RuntimeError, ModuleNotFoundError) as error:
        print(f"ddit train: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
