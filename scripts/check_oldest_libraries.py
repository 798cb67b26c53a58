"""Runs a small suite of tests on the oldest diffusers and transformers that pyproject.toml allows.

    python scripts/check_oldest_libraries.py [FOLDER]

FOLDER: where those are unpacked; else they are downloaded. Families that this diffusers does not have yet are left out.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "python_tests"
SUITE = (
    "families/test_flux_variants.py",
    "families/test_family_cases.py",
    "families/test_block_contract.py",
    "embedded/test_embedded.py",
)
CHOSEN = (
    "test_flux_variants",
    *("FLUX.1", "Wan", "Stable", "Qwen", "AuraFlow", "CogView4"),
    *("pictures_show", "bit_identical_with_the_adapter"),  # of test_embedded: text encoders and tokenizers
)
OF_THEIR_TIME = ("huggingface-hub<1", "tokenizers<0.22")  # what that transformers asks for


def oldest(library: str) -> str:
    """As in pyproject.toml's dependencies, for pip."""
    floor = re.search(rf'"{library}>=([\d.]+)"', (ROOT / "pyproject.toml").read_text()).group(1)
    return f"{library}=={floor}.*"


def download(folder: Path) -> None:
    wanted = [oldest("diffusers"), oldest("transformers"), *OF_THEIR_TIME]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*pip, *wanted], check=True)


def check(folder: Path) -> int:
    """The exit code of pytest, with those libraries in front of the installed ones."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    tests = [str(TESTS / name) for name in SUITE]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        " or ".join(CHOSEN),
        *tests,
    ]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": path}).returncode


def main() -> int:
    if len(sys.argv) > 1:
        return check(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        download(Path(folder))
        return check(Path(folder))


if __name__ == "__main__":
    raise SystemExit(main())
