"""What the demos share: a prompt drawn in four ways from the same noise, and the table of what each way took."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import ddit_ext
from ddit_ext import embedded
from ddit_ext.fidelity import psnr
from ddit_ext.policies import growing_gaps

SIZES = (1, 2, 4)
COLOURS = {1: "#3b4cc0", 2: "#8db0fe", 4: "#f2b08a"}
WAYS = ("fixed p", "dynamic", "forecast", "fewer steps")

Draw = Callable[[str, int, int], np.ndarray]  # prompt, seed, steps -> uint8 [n, ...]


@dataclass
class Drawing:
    """One prompt, drawn in the four :data:`WAYS` from the same noise."""

    prompt: str
    shown: list[np.ndarray]  # uint8 [n, ...], a way each
    seconds: list[float]
    report: ddit_ext.Report  # of the dynamic run


def check_steps(parser: argparse.ArgumentParser, steps: int, target: float) -> None:
    """Exit with an error where a run of `steps` leaves nothing to skip at the target speed."""
    if not (steps >= 4 and target >= 1.2):
        parser.error(
            f"--steps must be 4 or more and --target-speedup 1.2 or more, got {steps} and {target:g}"
        )


def draw_all(
    model: embedded.Embedded,
    draw: Draw,
    prompt: str,
    seed: int,
    steps: int,
    target: float,
    forecast: dict[str, float],
) -> Drawing:
    """At the fixed size, and at a target speed: with dynamic patches, with skipped steps forecast, with fewer steps.

    forecast: how, as `ddit_ext.patch` takes it.
    """

    def timed(count: int, settings: dict[str, Any] | None) -> tuple[np.ndarray, float]:
        handle = ddit_ext.patch(model.pipeline, model.adapter, **settings) if settings else None
        reports.append(handle)
        try:
            started = time.perf_counter()
            return draw(prompt, seed, count), time.perf_counter() - started
        finally:
            if handle is not None:
                handle.unpatch()

    reports: list[ddit_ext.Handle | None] = []
    # Fine at both ends and 2p between them is what comes closest at this speed by sizes alone (docs/studies/which-rule.md).
    sizes = {"scales": (1, 2), "target_speedup": target, "protect": (steps // 9, steps // 14)}
    fewer = max(1, round(steps / target))
    # A skipped step is cheap, not free: all of them together take about as long as a computed one.
    computed = growing_gaps(steps, max(2, fewer - 1))
    made = [
        timed(steps, None),
        timed(steps, sizes),
        timed(steps, {"schedule": computed} | forecast),
        timed(fewer, None),
    ]
    shown, seconds = zip(*made, strict=True)
    return Drawing(prompt, list(shown), list(seconds), reports[1].report())


Measure = Callable[[np.ndarray, np.ndarray], float]  # shown, fixed -> how close


def table(
    model: embedded.Embedded, drawings: list[Drawing], measures: dict[str, Measure] | None = None
) -> str:
    """Markdown: times, sizes, closeness to fixed p (PSNR and further measures), and what the classifier finds."""
    closeness: dict[str, Measure] = {"PSNR, dB": lambda shown, fixed: float(psnr(shown, fixed).mean())}
    closeness |= measures or {}
    others = " / ".join(WAYS[1:])
    head = ["prompt", "fixed p, s", f"speed: {others}", "dynamic: steps at p / 2p / 4p"]
    head += [f"{name}: {others}" for name in closeness] + [f"found: {' / '.join(WAYS)}"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    rows = []
    for drawing in drawings:
        counts = [drawing.report.to_dict()["steps_per_scale"].get(size, 0) for size in SIZES]
        close = [
            [measure(shown, drawing.shown[0]) for shown in drawing.shown[1:]]
            for measure in closeness.values()
        ]
        found = [model.score(shown, [drawing.prompt] * len(shown))["accuracy"] for shown in drawing.shown]
        rows.append((drawing.seconds, close, found))
        lines.append(_row(drawing.prompt, drawing.seconds, close, found, " / ".join(map(str, counts))))
    seconds, close, found = (np.array(values) for values in zip(*rows, strict=True))
    # Sums: the speed of all is that of the whole work.
    lines.append(_row("**all**", seconds.sum(0), close.mean(0), found.mean(0), ""))
    return "\n".join(lines)


def _row(name: str, seconds: Any, close: Any, found: Any, counts: str) -> str:
    speeds = " / ".join(f"{seconds[0] / other:.2f}x" for other in seconds[1:])
    cells = [name, f"{seconds[0]:.2f}", speeds, counts]
    cells += [" / ".join(f"{value:.3g}" for value in values) for values in close]
    return f"| {' | '.join([*cells, ' / '.join(f'{share:.0%}' for share in found)])} |"


def token_bars(axis: Any, drawing: Drawing) -> None:
    """The tokens of each dynamic step, coloured by its size."""
    steps = drawing.report.to_dict()["steps"]
    axis.bar(
        [step["index"] for step in steps],
        [step["tokens"] for step in steps],
        width=1.0,
        color=[COLOURS[step["scale"]] for step in steps],
    )
    axis.set_title(drawing.prompt, fontsize=9)
    axis.set_ylabel("tokens", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def legend(figure: Any) -> None:
    """What the bars' colours mean, under a figure."""
    from matplotlib.patches import Patch

    names = ["patch p" if size == 1 else f"patch {size}p" for size in SIZES]
    handles = [Patch(color=COLOURS[size], label=name) for size, name in zip(SIZES, names, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)
