"""What the checks against the oldest libraries share: their versions, and the folder where they are unpacked."""

import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def oldest(library: str) -> str:
    """The lowest version that pyproject.toml's dependencies allow."""
    return re.search(rf'"{library}>=([\d.]+)"', (ROOT / "pyproject.toml").read_text()).group(1)


def main(download: Callable[[Path], None], check: Callable[[Path], int]) -> int:
    """`check` on the folder that the command line names, or on one that `download` fills and that is gone afterwards."""
    if len(sys.argv) > 1:
        return check(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        download(Path(folder))
        return check(Path(folder))
