"""What the demos share: prompts drawn in several ways from the same noise, their times, and the table of both."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import ddit_ext
from ddit_ext import embedded
from ddit_ext.fidelity import psnr

Draw = Callable[[str, int, int], np.ndarray]  # prompt, seed, steps -> uint8 [n, ...]
Measure = Callable[[np.ndarray, np.ndarray], float]  # shown, full run's -> how close

LOST = 0.1
"""A run that waited for a core for more than this share of its time is made again."""

SPARE = 4
"""One run in so many may be made again: on a machine that is always busy, medians have to do."""


@dataclass(frozen=True)
class Way:
    """One way to draw: its name, how many steps are asked for, and what patch() is told (None: not patched)."""

    name: str
    steps: int
    patch: dict[str, Any] | None = None


@dataclass
class Drawing:
    """One prompt in each way, from the same noise: uint8 [n, ...] a way, and seconds of every repeat a way."""

    prompt: str
    shown: list[np.ndarray]
    seconds: list[list[float]]
    reports: list[ddit_ext.Report | None]

    def speeds(self) -> list[float]:
        """Times as fast as the full run, by the medians of the repeats."""
        medians = [statistics.median(each) for each in self.seconds]
        return [medians[0] / median for median in medians]


def check_steps(parser: argparse.ArgumentParser, steps: int, target: float) -> None:
    """Exit with an error where a run of `steps` leaves nothing to forecast at the target speed."""
    if not (steps >= 4 and target >= 1.2):
        parser.error(
            f"--steps must be 4 or more and --target-speedup 1.2 or more, got {steps} and {target:g}"
        )


def draw_all(
    pipe: Any, draw: Draw, ways: Sequence[Way], prompts: Sequence[str], repeats: int
) -> list[Drawing]:
    """Each prompt in each way, `repeats` times; the ways take turns, after one run of each that warms up.

    Only the first repeat's pictures are kept: the others are the same.
    """
    from tqdm import tqdm

    for way in ways:
        _run(pipe, draw, way, prompts[0], 0)
    drawings = [Drawing(prompt, [], [[] for _ in ways], []) for prompt in prompts]
    total = repeats * len(prompts) * len(ways)
    spare = total // SPARE
    with tqdm(total=total, desc="runs", unit="run") as bar:
        for repeat in range(repeats):
            for seed, drawing in enumerate(drawings):
                for number, way in enumerate(ways):
                    run = _run(pipe, draw, way, drawing.prompt, seed)
                    if run.lost > LOST and spare:
                        spare -= 1
                        run = min(run, _run(pipe, draw, way, drawing.prompt, seed), key=lambda one: one.lost)
                    drawing.seconds[number].append(run.seconds)
                    if repeat == 0:
                        drawing.shown.append(run.shown)
                        drawing.reports.append(run.report)
                    bar.update()
    return drawings


@dataclass(frozen=True)
class _Run:
    """lost: the share of the seconds that it waited for a core."""

    shown: np.ndarray
    seconds: float
    lost: float
    report: ddit_ext.Report | None


def _run(pipe: Any, draw: Draw, way: Way, prompt: str, seed: int) -> _Run:
    handle = ddit_ext.patch(pipe, **way.patch) if way.patch else None
    try:
        waited, started = _waited(), time.perf_counter()
        shown = draw(prompt, seed, way.steps)
        seconds = time.perf_counter() - started
        return _Run(shown, seconds, (_waited() - waited) / seconds, handle and handle.report())
    finally:
        if handle is not None:
            handle.unpatch()


def _waited() -> float:
    """Seconds that this thread was ready to run and had no core, so far; 0 where the system doesn't tell (off Linux)."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def table(
    model: embedded.Embedded,
    drawings: Sequence[Drawing],
    names: Sequence[str],
    measures: dict[str, Measure] | None = None,
) -> str:
    """Markdown, a row a way: speed (the median over prompts), closeness to the full run, what the classifier finds."""
    closeness: dict[str, Measure] = {"PSNR, dB": lambda shown, full: float(psnr(shown, full).mean())}
    closeness |= measures or {}
    lines = [
        f"| | speed | {' | '.join(closeness)} | prompt found |",
        "|---" * (len(closeness) + 3) + "|",
    ]
    for number, name in enumerate(names):
        speed = statistics.median(drawing.speeds()[number] for drawing in drawings)
        cells = [f"{speed:.2f}x"]
        for measure in closeness.values():
            values = [measure(drawing.shown[number], drawing.shown[0]) for drawing in drawings]
            cells.append("" if number == 0 else f"{np.mean(values):.3g}")
        lines.append(f"| {' | '.join([name, *cells, f'{_found(model, drawings, number):.0%}'])} |")
    seconds = statistics.median(statistics.median(drawing.seconds[0]) for drawing in drawings)
    lines.append("")
    lines.append(f"{len(drawings)} prompts; a full run takes {seconds:.2f} s.")
    return "\n".join(lines)


def headings(model: embedded.Embedded, drawings: Sequence[Drawing], used: Sequence[Way]) -> list[str]:
    """For a sheet of pictures: each way's name with its speed, PSNR and what is found, over the prompts."""
    shown = []
    for number, way in enumerate(used):
        found = f"{_found(model, drawings, number):.0%} found"
        if number == 0:
            shown.append(f"{way.name}\n{way.steps} steps\n{found}")
            continue
        speed = statistics.median(drawing.speeds()[number] for drawing in drawings)
        close = np.mean([psnr(drawing.shown[number], drawing.shown[0]).mean() for drawing in drawings])
        shown.append(f"{way.name}\n{speed:.1f}x, {close:.0f} dB\n{found}")
    return shown


def _found(model: embedded.Embedded, drawings: Sequence[Drawing], number: int) -> float:
    """The share of what the prompts ask for that the classifier finds, in one way's pictures."""
    judged = [
        model.judge(drawing.shown[number], [drawing.prompt] * len(drawing.shown[number])).found
        for drawing in drawings
    ]
    return float(np.mean(judged))
