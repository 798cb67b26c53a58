"""Runs a small suite of tests on the oldest diffusers that pyproject.toml allows, beside the installed one.

    python scripts/check_oldest_diffusers.py [FOLDER]

FOLDER: where that diffusers is unpacked; else it is downloaded. Families that it does not have yet are left out.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUITE = ("test_flux_variants.py", "test_family_cases.py", "test_block_contract.py")
FAMILIES = ("FLUX.1", "Wan", "Stable", "Qwen", "AuraFlow", "CogView4")


def oldest() -> str:
    """As in pyproject.toml's dependencies."""
    return re.search(r'"diffusers>=([\d.]+)"', (ROOT / "pyproject.toml").read_text()).group(1)


def download(folder: Path) -> None:
    wanted = ["--no-deps", "--target", str(folder), f"diffusers=={oldest()}.*"]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)


def check(folder: Path) -> int:
    """The exit code of pytest, with that diffusers in front of the installed one."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    chosen = " or ".join(("test_flux_variants", *FAMILIES))
    tests = [str(ROOT / "python_tests" / "families" / name) for name in SUITE]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, *tests]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": path}).returncode


def main() -> int:
    if len(sys.argv) > 1:
        return check(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        download(Path(folder))
        return check(Path(folder))


if __name__ == "__main__":
    raise SystemExit(main())
