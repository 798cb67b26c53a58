"""`ddit info`: what was built, what the machine has, and the versions."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata

LIBRARIES = ("torch", "diffusers", "transformers", "accelerate", "peft")


def add(subcommands: argparse._SubParsersAction) -> None:
    """Declare the subcommand."""
    parser = subcommands.add_parser("info", help="what was built, what the machine has, and the versions")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what a report of a problem should hold."""
    for name, value in facts().items():
        print(f"{name:<16} {value}")
    return 0


def facts() -> dict[str, str]:
    """Each fact by its name, as it is printed."""
    import torch

    from .. import build_info
    from .._machine import device_name

    built = build_info()
    return {
        "ddit_ext": f"{built.version}, built against torch {built.torch_built} with {built.compiler}",
        "CUDA kernels": "for sm_" + ", sm_".join(name.removesuffix("-real") for name in built.architectures)
        if built.cuda
        else "not built (no nvcc was found, or DDIT_EXT_CUDA was OFF)",
        "GPU": _gpus(torch),
        "processor": device_name("cpu"),
        "Python": platform.python_version(),
        **{name: _version(name) for name in LIBRARIES},
        "embedded models": _embedded(),
        "works here": _works(torch.cuda.is_available(), built.cuda),
    }


def _gpus(torch) -> str:
    if not torch.cuda.is_available():
        return "none that torch can use"
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        found.append(
            f"{properties.name}, compute capability {properties.major}.{properties.minor}, {memory:.0f} GiB"
        )
    return "; ".join(found)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _embedded() -> str:
    from ..embedded import weights

    try:
        return str(weights.root())
    except FileNotFoundError:
        return "not installed: pip install ./embedded in a checkout"


def _works(gpu: bool, kernels: bool) -> str:
    if gpu and not kernels:
        return "forecasts; larger patches only on the CPU (they need the CUDA kernels: install again where nvcc is)"
    return "forecasts and larger patches" + (", on the GPU" if gpu else ", on the CPU")
