"""Loads libddit_ext.so, which registers torch.ops.ddit_ext."""

import os
from pathlib import Path

import torch

from ._build_info import read_build


def path() -> Path:
    """The library that is loaded: DDIT_EXT_LIBRARY, for example of a build folder, or the installed one."""
    chosen = os.environ.get("DDIT_EXT_LIBRARY")
    return Path(chosen) if chosen else Path(__file__).parent / "lib" / "libddit_ext.so"


def load() -> None:
    library = path()
    try:
        torch.ops.load_library(str(library))
    except (OSError, RuntimeError) as error:
        raise ImportError(
            f"ddit_ext could not load {library}: {error}\n"
            f"It was built against torch {read_build().get('torch_built', '(unknown)')} "
            f"and met torch {torch.__version__}. "
            "To build it again: pip install --no-build-isolation --force-reinstall --no-deps ."
        ) from error
