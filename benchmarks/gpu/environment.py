"""Stage `environment`: the machine and the versions, asked for without building anything."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import subprocess

import torch

from .part import ROOT, Part

PACKAGES = ("torch", "triton", "numpy", "diffusers", "transformers", "peft", "accelerate", "pytest")
QUERIES = (
    "driver_version",
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "clocks.max.mem",
    "power.limit",
    "compute_mode",
    "mig.mode.current",
)


def run(part: Part) -> None:
    part.add(device_name=_device_name(part.device))
    if part.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        part.add(
            gpu={
                "capability": f"{properties.major}.{properties.minor}",
                "memory_bytes": properties.total_memory,
                "multiprocessors": properties.multi_processor_count,
                "l2_bytes": properties.L2_cache_size,
            }
        )
    part.add(
        cpu=_device_name("cpu"),
        python=platform.python_version(),
        versions={name: _version(name) for name in PACKAGES},
        torch_cuda=torch.version.cuda,
        commit=_first_line("git", "-C", str(ROOT), "rev-parse", "HEAD"),
    )
    if part.device == "cuda":
        part.add(
            smi=_smi(),
            nvcc=_last_line("nvcc", "--version"),
            sanitizer=_first_line("compute-sanitizer", "--version"),
        )


def _device_name(device: str) -> str:
    if device == "cuda":
        if not torch.cuda.is_available():
            raise RuntimeError(
                f"no GPU: torch {torch.__version__} sees none; --device cpu --tiny is the dry run"
            )
        return torch.cuda.get_device_name(0)
    # By its path: the package can't be imported before it is built, which comes after this.
    spec = importlib.util.spec_from_file_location("machine", ROOT / "ddit_ext" / "_machine.py")
    machine = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(machine)
    return f"CPU, {machine.device_name('cpu')}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _smi() -> dict[str, str]:
    """What the driver says of the first GPU: versions, clocks as they are, limits. Nothing is set."""
    line = _first_line("nvidia-smi", f"--query-gpu={','.join(QUERIES)}", "--format=csv,noheader")
    return dict(zip(QUERIES, line.split(", "), strict=False)) if line else {}


def _first_line(*command: str) -> str | None:
    lines = _lines(*command)
    return lines[0] if lines else None


def _last_line(*command: str) -> str | None:
    lines = _lines(*command)
    return lines[-1] if lines else None


def _lines(*command: str) -> list[str]:
    """What a program prints; nothing where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if not done.returncode else []
