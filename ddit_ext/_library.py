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
    """ImportError where the library is missing or does not load, with what to do about it."""
    library = path()
    if os.environ.get("DDIT_EXT_LIBRARY") and not library.exists():
        raise ImportError(f"DDIT_EXT_LIBRARY is {library}, and there is no such file")
    checkout = Path(__file__).resolve().parents[1]
    if not library.exists() and (checkout / "CMakeLists.txt").is_file():
        raise ImportError(
            f"{checkout} is a checkout of ddit_ext that was not built in place, and it hides the installed package, "
            "because Python looks into the current folder first. One of these helps:\n"
            "  use the ddit command instead of python -m ...\n"
            "  run Python from another folder\n"
            "  pip install --no-build-isolation -e .    (builds the checkout in place)"
        )
    try:
        torch.ops.load_library(str(library))
    except (OSError, RuntimeError) as error:
        raise ImportError(
            f"ddit_ext could not load {library}: {error}\n"
            f"It was built against torch {read_build().get('torch_built', '(unknown)')} "
            f"and met torch {torch.__version__}. "
            "To build it again: pip install --no-build-isolation --force-reinstall --no-deps ."
        ) from error
    if not hasattr(torch.ops.ddit_ext, "patch_embed"):
        raise ImportError(f"{library} holds no ops of ddit_ext: not libddit_ext.so, or of another version")
