"""What was built, and what it runs on."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from ._version import __version__


@dataclass(frozen=True)
class BuildInfo:
    version: str  # of ddit_ext
    torch_built: str  # the torch that the library was compiled against
    torch_met: str  # the torch that is running
    cuda: bool  # whether the library holds CUDA kernels
    architectures: tuple[str, ...]  # those of the CUDA kernels, as CMake writes them: "80-real", "90"
    compiler: str


def read_build() -> dict:
    """What the build wrote down; empty where there was none."""
    file = Path(__file__).parent / "lib" / "build_info.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def build_info() -> BuildInfo:
    built = read_build()
    return BuildInfo(
        version=__version__,
        torch_built=built.get("torch_built", "unknown"),
        torch_met=torch.__version__,
        cuda=built.get("cuda", False),
        architectures=tuple(built.get("architectures", ())),
        compiler=built.get("compiler", "unknown"),
    )
