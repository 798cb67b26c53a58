"""Stage `tests`: the whole pytest suite, in which a test that needs the GPU may not be skipped."""

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
DRY_RUN = "python_tests/test_cells.py"

# With -v: "file::test PASSED [ 12%]"; of an xdist worker: "[gw1] [ 12%] PASSED file::test".
_PLAIN = re.compile(r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b.*\[ *\d+%\]", re.MULTILINE)
_WORKER = re.compile(
    r"^\[gw\d+\] \[ *\d+%\] (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS) (\S+::.+)$", re.MULTILINE
)
_REASON = re.compile(r"^(?:FAILED|ERROR) (\S.*)$", re.MULTILINE)
_UNIMPORTABLE = re.compile(r"^ERROR (python_tests/\S+\.py)", re.MULTILINE)


def run(part: Part) -> None:
    arguments = [DRY_RUN] if part.tiny else ["python_tests"]
    if importlib.util.find_spec("diffusers") is None:
        without = sorted(_cannot_be_imported(part))
        arguments += [f"--ignore={file}" for file in without]
        part.leave_out(f"diffusers is not installed: {len(without)} files: {', '.join(without)}")
    if importlib.util.find_spec("xdist") and not part.tiny:
        arguments += ["-n", str(WORKERS)]
    command = [sys.executable, "-m", "pytest", "-v", "-rfE", "--tb=short", "-p", "no:cacheprovider"]
    suite = Command(
        [*command, *arguments],
        part.folder / "pytest.log",
        part.left() - 5,
        ROOT,
        {"DDIT_REQUIRE_CUDA": "1" if part.device == "cuda" else "0", "OMP_NUM_THREADS": "2"},
    ).wait()
    output = suite.output()
    counted = counts(output)
    part.add(**counted, pytest_s=round(suite.seconds, 1), status=suite.returncode)
    if suite.timed_out:
        part.problem(f"the suite ran past its limit after {sum(counted['outcomes'].values())} tests")
    elif suite.returncode:
        part.problem(f"pytest ended with status {suite.returncode}")
        part.add(log=suite.tail(6000))


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
    return {"outcomes": dict(outcomes), "failures": failures[:100], "reasons": reasons[:40]}


def _cannot_be_imported(part: Part) -> set[str]:
    """Test files that can't even be collected."""
    collected = collect(part.folder / "collect.log", part.left() / 3, ["python_tests"])
    return {str(Path(file)) for file in _UNIMPORTABLE.findall(collected)}


def collect(log: Path, seconds: float, arguments: list[str]) -> str:
    """What `pytest --collect-only -q` prints: one test a line, then the errors."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *arguments]
    return Command(command, log, seconds, ROOT, {}).wait().output()
