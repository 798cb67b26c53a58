"""Stage `tests`: the tests of the kernels, none of which may be skipped for want of a GPU."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from .command import Command
from .part import ROOT, Part

WORKERS = max(1, min(8, (os.cpu_count() or 1) // 2))
"""Processes of pytest-xdist, where it is installed: most of the suite needs the CPU."""
DRY_RUN = "python_tests/ops/test_cells.py"
KERNEL_FILES = (
    "test_acceleration_quantiles*.py",
    "test_patch_embed*.py",
    "test_patch_deembed*.py",
    "test_patch_sizes*.py",
)

# With -v: "file::test PASSED [ 12%]"; of an xdist worker: "[gw1] [ 12%] PASSED file::test".
_PLAIN = re.compile(r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b.*\[ *\d+%\]", re.MULTILINE)
_WORKER = re.compile(
    r"^\[gw\d+\] \[ *\d+%\] (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS) (\S+::.+)$", re.MULTILINE
)
_REASON = re.compile(r"^(?:FAILED|ERROR) (\S.*)$", re.MULTILINE)


def run(part: Part) -> None:
    """The tests of the kernels, on the GPU alone: all others pass without one, and have."""
    run_suite(part, [DRY_RUN] if part.tiny else [*kernel_files(), "-k", "cuda"])


def run_suite(part: Part, arguments: list[str]) -> None:
    """pytest with these arguments; what it did is read from its log, however it ends."""
    suite = _suite(part, arguments)
    part.add(**counts(suite.output()), pytest_s=round(suite.seconds, 1))
    if suite.timed_out:
        part.problem(f"pytest ran past the limit after {sum(part.results['outcomes'].values())} tests")
    elif suite.returncode:
        part.problem(f"pytest ended with status {suite.returncode}")
        part.add(log=suite.tail(6000))


def kernel_files() -> list[str]:
    """The test files of the ops, from the checkout."""
    folder = ROOT / "python_tests" / "ops"
    return [str(file.relative_to(ROOT)) for pattern in KERNEL_FILES for file in sorted(folder.glob(pattern))]


def _suite(part: Part, arguments: list[str]) -> Command:
    command = [sys.executable, "-m", "pytest", "-v", "-rfE", "--tb=short", "-p", "no:cacheprovider"]
    if importlib.util.find_spec("xdist") and not part.tiny:
        command += ["-n", str(WORKERS)]
    return Command(
        [*command, *arguments],
        part.folder / f"pytest_{part.name}.log",
        part.left() - 5,
        ROOT,
        {
            "DDIT_REQUIRE_CUDA": "1" if part.device == "cuda" else "0",
            "OMP_NUM_THREADS": "2",
            "OMP_WAIT_POLICY": "PASSIVE",  # more threads than cores: those that wait shall not spin
        },
    ).wait()


def counts(output: str) -> dict[str, Any]:
    """Outcomes as far as the suite came, {"outcomes": {"passed": n, …}, "failures": [...], "reasons": [...]}.

    Read from the log of `pytest -v`: a suite that is stopped writes no other record.
    """
    found = {name: outcome for name, outcome in _PLAIN.findall(output)}
    found |= {name: outcome for outcome, name in _WORKER.findall(output)}
    outcomes = Counter(outcome.lower() for outcome in found.values())
    failures = sorted(name for name, outcome in found.items() if outcome in ("FAILED", "ERROR"))
    summary = output.rpartition("short test summary info")[2] if "short test summary" in output else ""
    reasons = [reason[:300] for reason in _REASON.findall(summary)]
    return {"outcomes": outcomes, "failures": failures[:100], "reasons": reasons[:40]}


def collect(log: Path, seconds: float, arguments: list[str]) -> str:
    """What `pytest --collect-only -q` prints: one test a line, then the errors."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *arguments]
    return Command(command, log, seconds, ROOT, {}).wait().output()
