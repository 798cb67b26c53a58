"""How the launches of real calls fill GPUs: blocks, how many fit at a time, waves, and how even the last one is.

The launches are those that the ops make: called on the emulated GPU (docs/design/emulation.md), which writes down what it
is asked to launch and runs nothing. Registers and static shared memory come from the compiler.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Gpu:
    name: str
    architecture: str  # of the cubin that it runs
    multiprocessors: int
    shared: int  # bytes a multiprocessor
    registers: int = 65536
    threads: int = 2048
    blocks: int = 32


GPUS = (
    Gpu("A100", "80", 108, 164 * 1024),
    Gpu("H100, H200", "90a", 132, 228 * 1024),
    Gpu("B200", "100", 148, 228 * 1024),
)


@dataclass(frozen=True)
class Resources:
    """What the compiler says of a kernel."""

    registers: int  # a thread
    shared: int  # static bytes a block


@dataclass(frozen=True)
class Launch:
    kernel: str  # as a reader writes it: "name<arguments>"
    blocks: int
    threads: int
    dynamic_shared: int


@dataclass(frozen=True)
class Fill:
    """What a launch makes of a GPU."""

    resident: int  # blocks that a multiprocessor holds at a time
    waves: float
    evenness: float  # of the work: average of the multiprocessors over the busiest one
    idle: bool  # some multiprocessor gets no block


def fill(launch: Launch, resources: Resources, gpu: Gpu) -> Fill:
    registers = math.ceil(resources.registers / 8) * 8 * launch.threads
    # A block takes 1 KB for itself, and shared memory in units of 128 bytes.
    shared = math.ceil((resources.shared + launch.dynamic_shared) / 128) * 128 + 1024
    resident = min(
        gpu.blocks, gpu.threads // launch.threads, gpu.registers // registers, gpu.shared // shared
    )
    busiest = math.ceil(launch.blocks / gpu.multiprocessors)
    return Fill(
        resident,
        launch.blocks / (gpu.multiprocessors * max(resident, 1)),
        launch.blocks / gpu.multiprocessors / busiest,
        launch.blocks < gpu.multiprocessors,
    )


FEW_BLOCKS = {
    "acceleration_quantiles, FLUX": "a warp has all loads of its tile under way at once, so the tiles take about as "
    "long as one wait for memory; a sample's last block, of the same size, then selects, which takes longer the "
    "smaller it is",
}
"""Calls, by how their names begin, that may leave multiprocessors without a block, each with its reason."""


def reason_for_few_blocks(call: str) -> str | None:
    return next((reason for name, reason in FEW_BLOCKS.items() if call.startswith(name)), None)


def calls() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Calls of real models, batch 1: a name and what makes the call on the emulated GPU."""
    import torch

    sys.path.insert(0, str(ROOT / "benchmarks"))
    from gpu.shapes import QUANTILE, SCALES, SHAPES, P

    ops = torch.ops.ddit_ext_emu

    def empty(*sizes: int) -> torch.Tensor:
        return torch.empty(sizes, dtype=torch.bfloat16)

    for shape in SHAPES:
        cells = shape.latents(1, torch.bfloat16, "cpu")
        width, channels = shape.width, shape.channels
        grid = [shape.frames, shape.rows, shape.columns]
        for scale in SCALES:
            side = scale * P
            weight = empty(width, channels, side, side)
            # A coarse call has the factor of its noise matching, the same for all channels here.
            factor = None if scale == 1 else torch.ones(1, 1)
            embed = (cells, weight, empty(width), None, None, 1.0, scale, factor)
            deembed = (
                empty(1, shape.tokens(scale), width),
                weight.view(channels, side, side, width),
                empty(channels, side, side),
                *(None, None, 1.0, scale, grid),
            )
            yield f"patch_embed, {shape.name}, scale {scale}", lambda a=embed: ops.patch_embed(*a)
            yield f"patch_deembed, {shape.name}, scale {scale}", lambda a=deembed: ops.patch_deembed(*a)
        z = cells.float()
        yield (
            f"acceleration_quantiles, {shape.name}",
            lambda z=z: ops.acceleration_quantiles(z, z, z, z, list(SCALES), QUANTILE),
        )


def launches(library: Path, call: Callable[[], Any], multiprocessors: int) -> list[Launch]:
    """What a call launches on an emulated GPU with so many multiprocessors."""
    names = _kernels_by_offset(library)
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "launches"
        os.environ["DDIT_EMULATION_LAUNCHES"] = str(record)
        os.environ["DDIT_EMULATION_MULTIPROCESSORS"] = str(multiprocessors)
        try:
            call()
        finally:
            del os.environ["DDIT_EMULATION_LAUNCHES"], os.environ["DDIT_EMULATION_MULTIPROCESSORS"]
        lines = record.read_text().splitlines() if record.is_file() else []
    return [Launch(names[offset], *rest) for offset, *rest in (map(int, line.split()) for line in lines)]


_names: dict[Path, dict[int, str]] = {}


def _kernels_by_offset(library: Path) -> dict[int, str]:
    if library not in _names:
        done = subprocess.run(
            ["nm", "-C", "--defined-only", library], capture_output=True, text=True, check=True
        )
        symbols = (line.split(" ", 2) for line in done.stdout.splitlines())
        _names[library] = {int(offset, 16): readable(name) for offset, kind, name in symbols if kind in "tTW"}
    return _names[library]


def readable(demangled: str) -> str:
    """A kernel's demangled name without its namespaces and parameters."""
    name = re.sub(r"\(anonymous namespace\)::|\b\w+::", "", demangled)
    return name.removeprefix("void ").split("(")[0]
