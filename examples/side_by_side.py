"""What the demos share: a prompt drawn in three ways from the same noise, and the table of what each way took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import ddit_ext
from ddit_ext import embedded
from ddit_ext.fidelity import psnr

SIZES = (1, 2, 4)
COLOURS = {1: "#3b4cc0", 2: "#8db0fe", 4: "#f2b08a"}
WAYS = ("fixed p", "dynamic", "fixed p, fewer steps")

Draw = Callable[[str, int, int], np.ndarray]  # prompt, seed, steps -> uint8 [n, ...]


@dataclass
class Trio:
    """One prompt, drawn in the three :data:`WAYS` from the same noise."""

    prompt: str
    shown: list[np.ndarray]  # uint8 [n, ...], a way each
    seconds: list[float]
    report: ddit_ext.Report


def draw_trio(
    model: embedded.Embedded, draw: Draw, prompt: str, seed: int, steps: int, target: float
) -> Trio:
    """At the fixed size, with dynamic patches at a target speed, and with so many fewer steps at the fixed size."""

    def timed(count: int) -> tuple[np.ndarray, float]:
        started = time.perf_counter()
        return draw(prompt, seed, count), time.perf_counter() - started

    fixed = timed(steps)
    # Fine at both ends and 2p between them is what comes closest at this speed (docs/study.md).
    handle = ddit_ext.patch(
        model.pipeline,
        model.adapter,
        scales=(1, 2),
        target_speedup=target,
        protect=(steps // 9, steps // 14),
    )
    try:
        dynamic = timed(steps)
    finally:
        handle.unpatch()
    fewer = timed(max(1, round(steps / target)))
    shown, seconds = zip(fixed, dynamic, fewer, strict=True)
    return Trio(prompt, list(shown), list(seconds), handle.report())


Measure = Callable[[np.ndarray, np.ndarray], float]  # shown, fixed -> how close


def table(model: embedded.Embedded, trios: list[Trio], measures: dict[str, Measure] | None = None) -> str:
    """Markdown: times, sizes, closeness to fixed p (PSNR and further measures), and what the classifier finds."""
    closeness: dict[str, Measure] = {"PSNR, dB": lambda shown, fixed: float(psnr(shown, fixed).mean())}
    closeness |= measures or {}
    head = ["prompt", "fixed p, s", "dynamic: speed", "steps at p / 2p / 4p", "fewer steps: speed"]
    head += [f"{name}: dynamic / fewer" for name in closeness] + ["found: fixed / dynamic / fewer"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    rows = []
    for trio in trios:
        counts = [trio.report.to_dict()["steps_per_scale"].get(size, 0) for size in SIZES]
        close = [
            [measure(shown, trio.shown[0]) for shown in trio.shown[1:]] for measure in closeness.values()
        ]
        found = [model.score(shown, [trio.prompt] * len(shown))["accuracy"] for shown in trio.shown]
        rows.append((trio.seconds, close, found))
        lines.append(_row(trio.prompt, trio.seconds, close, found, " / ".join(map(str, counts))))
    seconds, close, found = (np.array(values) for values in zip(*rows, strict=True))
    # Sums: the speed of all is that of the whole work.
    lines.append(_row("**all**", seconds.sum(0), close.mean(0), found.mean(0), ""))
    return "\n".join(lines)


def _row(name: str, seconds: Any, close: Any, found: Any, counts: str) -> str:
    cells = [name, f"{seconds[0]:.2f}", f"{seconds[0] / seconds[1]:.2f}x", counts]
    cells += [f"{seconds[0] / seconds[2]:.2f}x"]
    cells += [" / ".join(f"{value:.3g}" for value in pair) for pair in close]
    return f"| {' | '.join([*cells, ' / '.join(f'{share:.0%}' for share in found)])} |"


def token_bars(axis: Any, trio: Trio) -> None:
    """The tokens of each dynamic step, coloured by its size."""
    steps = trio.report.to_dict()["steps"]
    axis.bar(
        [step["index"] for step in steps],
        [step["tokens"] for step in steps],
        width=1.0,
        color=[COLOURS[step["scale"]] for step in steps],
    )
    axis.set_title(trio.prompt, fontsize=9)
    axis.set_ylabel("tokens", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def legend(figure: Any) -> None:
    """What the bars' colours mean, under a figure."""
    from matplotlib.patches import Patch

    names = ["patch p" if size == 1 else f"patch {size}p" for size in SIZES]
    handles = [Patch(color=COLOURS[size], label=name) for size, name in zip(SIZES, names, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)
