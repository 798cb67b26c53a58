"""Stage `sanitizer`: the ops' tests under NVIDIA's compute-sanitizer: bad addresses, races, barriers, unset memory."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Sequence

import torch

from .command import Command
from .part import ROOT, Part, Skipped
from .shapes import TINY
from .tests import collect, kernel_files

KERNELS = "ddit"
"""Part of the name of every kernel of this project: its namespace. Only these are checked."""

TESTS = {"memcheck": 8, "racecheck": 4}
"""Tests of each file under each tool: all tools slow a program down, racecheck the most."""
MORE = {"synccheck": 4, "initcheck": 4}
"""The same, where there is time for it."""
MORE_S = 80

ALWAYS = re.compile(r"::test_many_blocks\[")
"""Tests under every tool, besides: those with more patches than a block of a kernel moves."""

PORT = 49152  # the tools wait for their programs at ports of their own, so that all can run at once
ERRORS_FOUND = 86

_CUDA = re.compile(r"\[(?:.*-)?cuda(?:-.*)?\]$")
_BESIDE_THE_KERNELS = re.compile(r"compile|autocast|gradient|opcheck|bad_arguments|named|device")
_SUMMARY = re.compile(r"^=+ ((?:ERROR|RACECHECK) SUMMARY: .*)$", re.MULTILINE)
_PASSED = re.compile(r" PASSED\b")


def run(part: Part) -> None:
    if part.device != "cuda":
        raise Skipped("compute-sanitizer checks kernels on a GPU")
    if not shutil.which("compute-sanitizer"):
        raise Skipped("compute-sanitizer is not on the PATH")
    part.add(kernels=_kernels(part))
    files = kernel_files()
    ids = collect(part.folder / "sanitized.log", 60, files).splitlines()
    runs = {}
    tools = TESTS | (MORE if part.left() > MORE_S else {})
    for number, (tool, each) in enumerate(tools.items()):
        chosen = select(ids, files, each)
        if not chosen:
            raise RuntimeError("no test of the ops has a cuda implementation to choose")
        runs[tool] = (chosen, _start(part, tool, number, chosen))
    try:
        while not all(command.done() for _, command in runs.values()):
            time.sleep(0.2)
    finally:
        for _, command in runs.values():
            command.stop()
    for tool, (chosen, command) in runs.items():
        _judge(part, tool, chosen, command)


def select(ids: Sequence[str], files: Sequence[str], each: int) -> list[str]:
    """`each` tests on the GPU of every file, spread over those that run kernels, and those that are never left out."""
    chosen = []
    for file in files:
        own = [
            name
            for name in ids
            if name.startswith(f"{file}::") and _CUDA.search(name) and not _BESIDE_THE_KERNELS.search(name)
        ]
        chosen += [own[len(own) * index // each] for index in range(min(each, len(own)))]
        chosen += filter(ALWAYS.search, own)
    return list(dict.fromkeys(chosen))


def _start(part: Part, tool: str, number: int, chosen: Sequence[str]) -> Command:
    options = ["--tool", tool, "--error-exitcode", str(ERRORS_FOUND), "--port", str(PORT + 20 * number)]
    # Calls of torch's that fail by design are no errors of a kernel.
    options += ["--report-api-errors", "no", "--print-limit", "20"]
    if tool != "initcheck":  # which has to see other kernels write what this project's read
        options += ["--kernel-name", f"kns={KERNELS}"]
    tests = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *chosen]
    return Command(
        ["compute-sanitizer", *options, *tests],
        part.folder / f"{tool}.log",
        part.left() - 16,  # all may have to be stopped, one after the other
        ROOT,
        # Without torch's pool each tensor is an allocation of its own, whose ends the tools know.
        {"DDIT_REQUIRE_CUDA": "1", "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "OMP_NUM_THREADS": "1"},
    )


def _judge(part: Part, tool: str, chosen: Sequence[str], command: Command) -> None:
    output = command.output()
    summary = _SUMMARY.findall(output)
    part.add(
        **{
            tool: {
                "tests": list(chosen),
                "passed": len(_PASSED.findall(output)),
                "summary": summary[-1] if summary else None,
                "status": command.returncode,
                "seconds": round(command.seconds, 1),
            }
        }
    )
    if command.timed_out:
        part.problem(f"{tool}: ran past its limit after {command.seconds:.0f} s")
    elif command.returncode:
        found = "it found errors" if command.returncode == ERRORS_FOUND else "its tests failed"
        part.problem(f"{tool}: {found} (status {command.returncode})")
        part.results[tool]["log"] = command.tail(4000)
    elif not summary:
        part.problem(f"{tool}: it printed no summary")
    part.save()


def _kernels(part: Part) -> dict[str, list[str]]:
    """The names of the kernels that each op launches. Names without KERNELS would not be checked at all."""
    import ddit_ext

    from .shapes import deembed_arguments, embed_arguments

    shape, like = TINY[0], (torch.float32, part.device)
    z = [shape.latents(1, *like) for _ in range(4)]
    calls = {
        "acceleration_quantiles": lambda: ddit_ext.ops.acceleration_quantiles(*z, [1, 2], 0.4),
        "patch_embed": lambda: ddit_ext.ops.patch_embed(**embed_arguments(shape, 1, 2, *like)),
        "patch_deembed": lambda: ddit_ext.ops.patch_deembed(**deembed_arguments(shape, 1, 2, *like)),
    }
    names = {}
    for op, call in calls.items():
        try:
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                call()
                torch.cuda.synchronize()
        except Exception as error:
            part.problem(f"{op}: {type(error).__name__}: {str(error)[:300]}")
            continue
        names[op] = sorted({event.key for event in profile.key_averages()})
        if not any(KERNELS in name for name in names[op]):
            part.problem(f"{op}: the profiler saw no kernel named *{KERNELS}*, so nothing of it is checked")
    return names
