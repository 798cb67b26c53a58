"""One command for a machine with a GPU: builds, tests, checks and measures everything that needs one.

    python3 benchmarks/gpu_check.py [--wheels DIR] [--out FILE.json] [--resume]       at most 420 s
    python3 benchmarks/gpu_check.py --plan second --against FIRST.json [...]          at most 200 s: kernels that changed
    python3 benchmarks/gpu_check.py --device cpu --tiny     a dry run of the same code, its figures mean nothing

It needs nothing from a network. What is found is written at once, to one JSON file and the same as Markdown; a kill
loses nothing. A stage that fails is reported and does not stop the next ones; the exit status is 0 only if none
failed. docs/design/gpu-check.md says how to read it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from gpu import driver, wheels
from gpu.part import ROOT, Part, Skipped

PLANS = {  # groups of stages, with the seconds of each; stages of a group run side by side
    "first": (
        {"environment": 20},
        {"build": 60},
        {"tests": 45, "sanitizer": 45},
        {"ceilings": 12},
        {"ops": 50},
        {"flux": 150},
        {"ncu": 30},
        {"wan": 45},
    ),
    "second": ({"environment": 20}, {"build": 50}, {"tests": 35}, {"ceilings": 12}, {"ops": 50}, {"ncu": 30}),
    "suite": ({"environment": 20}, {"build": 60}, {"suite": 500}),
}
TOTAL = {"first": 420, "second": 200, "suite": 590}
"""Seconds for all of a plan."""
STAGES = [name for group in PLANS["first"] for name in group]
FIRST = 60
"""Seconds that the first stage may take, at the others' cost: a cold torch takes long to import, and all follow from it."""

TOOLS = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer", "/usr/local/nvidia/bin")
"""Where nvcc, compute-sanitizer and nvidia-smi lie if they aren't on the PATH."""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, few repetitions")
    parser.add_argument("--plan", choices=list(PLANS), default="first", help="which stages, and for how long")
    parser.add_argument("--stages", help="some of the plan's, with commas between")
    parser.add_argument(
        "--against", type=Path, help="the JSON of an earlier run: the table has each op's time there"
    )
    parser.add_argument("--resume", action="store_true", help="keep what has passed in --out")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels of packages that are not installed")
    parser.add_argument(
        "--out", type=Path, help="by default benchmarks/results/gpu_check_<device>.json, its table beside it"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "gpu_check", help="folder for the logs")
    parser.add_argument("--total", type=float, help="seconds for all of it; by default the plan's")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a stage, in a process of its own
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    known = [name for group in PLANS[options.plan] for name in group]
    options.stages = options.stages.split(",") if options.stages else known
    options.total = TOTAL[options.plan] if options.total is None else options.total
    if unknown := sorted(set(options.stages) - set(known)):
        parser.error(f"--stages: expected some of {', '.join(known)}, got {', '.join(unknown)}")
    if options.against and not options.against.is_file():
        parser.error(f"--against: expected the JSON of an earlier run, got {options.against}")
    if options.device == "cpu" and not options.tiny:
        parser.error("--device cpu is for dry runs alone: give --tiny, too")
    return options


def run_one(options: argparse.Namespace) -> int:
    """One stage, here; its record says how it ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the stage's own programs are ended on the way
    part = Part(options.work, options.one, options.device, options.tiny, options.seconds)
    try:
        importlib.import_module(f"gpu.{options.one}").run(part)
    except Skipped as skipped:
        part.finish("skipped", str(skipped))
    except Exception as error:
        traceback.print_exc()
        part.finish("failed", f"{type(error).__name__}: {error}")
    else:
        part.finish()
    return 0


def run_all(options: argparse.Namespace) -> int:
    """The stages that are wanted, in their order: 0 if none failed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options.work.mkdir(parents=True, exist_ok=True)
    path = [str(ROOT)]
    if options.wheels:
        site = options.work / "site"
        wheels.unpack(options.wheels, site)
        path.insert(0, str(site.resolve()))
    environment = {
        "PYTHONPATH": os.pathsep.join([*path, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        "PYTHONUNBUFFERED": "1",
        "PATH": os.pathsep.join([os.environ.get("PATH", os.defpath), *TOOLS]),
    }
    groups = PLANS[options.plan]
    wanted = {"environment", *options.stages}
    header = {
        "command": " ".join(["python3", *sys.argv]),
        "options": {"device": options.device, "tiny": options.tiny, "total_s": options.total},
    }
    if options.against:
        header["against"] = _ops_of(options.against)
    report = driver.Report(
        options.work, header, [name for group in groups for name in group if name in wanted]
    )

    def after(name: str) -> None:
        stage = report.stages[name]
        print(
            f"{name:<12} {stage['status']:<8} {stage['seconds']:7.1f} s  {stage.get('reason', '')}",
            flush=True,
        )

    begun = time.monotonic()
    rest = [{name: limit for name, limit in group.items() if name in wanted} for group in groups[1:]]
    spare = options.total - sum(max(group.values(), default=0) for group in rest)
    driver.run_groups(_stages(options, groups[:1]), report, max(spare, FIRST), environment, after)
    report.out = options.out or default_out(report.stages["environment"].get("results", {}))
    report.out.parent.mkdir(parents=True, exist_ok=True)
    kept = _keep(options, report) if options.resume else set()
    report.write()
    rest = [{name: limit for name, limit in group.items() if name not in kept} for group in rest]
    left = options.total - (time.monotonic() - begun)
    driver.run_groups(_stages(options, rest), report, left, environment, after)
    print(f"\n{report.table()}\n{report.out}")
    failed = report.failed()
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def _ops_of(file: Path) -> dict:
    """An earlier record's file and its cases of the stage `ops`."""
    stages = json.loads(file.read_text())["stages"]
    return {"file": str(file), "cases": stages.get("ops", {}).get("results", {}).get("cases", [])}


def default_out(environment: dict) -> Path:
    """benchmarks/results/gpu_check_<device>.json, in letters, digits and underscores."""
    name = re.sub(r"[^a-z0-9]+", "_", environment.get("device_name", "unknown").lower()).strip("_")
    return ROOT / "benchmarks" / "results" / f"gpu_check_{name[:40]}.json"


def _stages(options: argparse.Namespace, groups: Sequence[dict[str, float]]) -> list[list[driver.Stage]]:
    def argv(name: str, seconds: float) -> list[str]:
        command = [
            sys.executable,
            str(Path(__file__).resolve()),
            "--one",
            name,
            "--seconds",
            f"{seconds:.1f}",
        ]
        command += ["--device", options.device, "--work", str(options.work.resolve())]
        return command + (["--tiny"] if options.tiny else [])

    return [
        [
            driver.Stage(name, limit, lambda seconds, name=name: argv(name, seconds))
            for name, limit in g.items()
        ]
        for g in groups
        if g
    ]


def _keep(options: argparse.Namespace, report: driver.Report) -> set[str]:
    """Take over the records of an earlier run on the same device; returns the stages that had passed."""
    if not report.out.is_file():
        return set()
    before = json.loads(report.out.read_text())["stages"]
    now = report.stages["environment"].get("results", {}).get("device_name")
    then = before.get("environment", {}).get("results", {}).get("device_name")
    if now != then:
        raise SystemExit(f"--resume: {report.out} was read on {then}, this is {now}")
    passed = {name for name, stage in before.items() if stage["status"] == "passed"}
    for name in STAGES[1:]:
        if name in before and (name in passed or name not in report.stages):
            report.keep(name, before[name])
    return passed


if __name__ == "__main__":
    options = parse(None)
    sys.exit(run_one(options) if options.one else run_all(options))
