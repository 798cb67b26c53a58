"""Stage `ncu`: what the hardware's counters say of six launches of this project's kernels."""

from __future__ import annotations

import csv
import io
import os
import shutil
import sys
from typing import Any

from .command import Command
from .part import ROOT, Part, Skipped

SECTIONS = ("SpeedOfLight", "Occupancy", "LaunchStats", "WarpStateStats", "MemoryWorkloadAnalysis")


def run(part: Part) -> None:
    if part.device != "cuda":
        raise Skipped("ncu reads counters of a GPU")
    if not shutil.which("ncu"):
        raise Skipped("ncu is not on the PATH")
    from .launches import KERNELS, LAUNCHES

    # The clocks are the machine's, and stay as they are.
    command = ["ncu", "--csv", "--page", "details", "--clock-control", "none", "--kernel-name", KERNELS]
    command += ["--launch-count", str(LAUNCHES), *(word for name in SECTIONS for word in ("--section", name))]
    command += [sys.executable, "-m", "gpu.launches"]
    path = os.pathsep.join([str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])
    done = Command(command, part.folder / "ncu.log", part.left() - 5, ROOT, {"PYTHONPATH": path}).wait()
    part.add(launches=metrics(done.output()))
    if done.timed_out or done.returncode:
        part.problem(
            f"ncu {'ran past its limit' if done.timed_out else f'ended with status {done.returncode}'}"
        )
        part.add(log=done.tail(3000))
    elif len(part.results["launches"]) < LAUNCHES:
        part.problem(f"ncu saw {len(part.results['launches'])} launches, not {LAUNCHES}")


def metrics(output: str) -> list[dict[str, Any]]:
    """One entry a launch, {"kernel", metric with its unit: value}, of what `ncu --csv --page details` printed."""
    start = output.find('"ID"')
    if start < 0:
        return []
    launches: dict[str, dict[str, Any]] = {}
    for row in csv.DictReader(io.StringIO(output[start:])):
        if not row.get("Metric Name"):
            continue
        entry = launches.setdefault(row["ID"], {"kernel": row["Kernel Name"].split("(")[0]})
        unit = row.get("Metric Unit") or ""
        entry[f"{row['Metric Name']}{f', {unit}' if unit else ''}"] = row["Metric Value"]
    return list(launches.values())
