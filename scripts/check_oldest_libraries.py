"""Runs a small suite of tests on the oldest diffusers and transformers that pyproject.toml allows.

    python scripts/check_oldest_libraries.py [FOLDER]

FOLDER: where those are unpacked; else they are downloaded. Families that this diffusers does not have yet are left out.
"""

import os
import subprocess
import sys
from pathlib import Path

from _oldest import ROOT, main, oldest

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


def download(folder: Path) -> None:
    wanted = [
        *(f"{library}=={oldest(library)}.*" for library in ("diffusers", "transformers")),
        *OF_THEIR_TIME,
    ]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*pip, *wanted], check=True)


def check(folder: Path) -> int:
    """The exit code of pytest, with those libraries in front of the installed ones."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    tests = [str(TESTS / name) for name in SUITE]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", " or ".join(CHOSEN)]
    return subprocess.run([*command, *tests], env=os.environ | {"PYTHONPATH": path}).returncode


if __name__ == "__main__":
    raise SystemExit(main(download, check))
