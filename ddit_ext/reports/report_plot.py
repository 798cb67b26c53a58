"""The picture of a run: scores against their thresholds, then tokens and time of each step, coloured by its size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .run_page import score_levels, score_lines
from .svg import size_colour, size_name


def draw(data: dict[str, Any], path: Path) -> None:
    """Write the picture of `Report.to_dict()`'s data to `path`; its ending names the format."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("report.plot needs matplotlib: pip install matplotlib") from error

    scored = data["source"] is not None
    figure = Figure(figsize=(8, 6 if scored else 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    heights = (3, 1.2, 1.2) if scored else (1, 1)
    *first, tokens, seconds = axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    for axis in first:
        _scores(axis, data)
    for axis, name in ((tokens, "tokens"), (seconds, "seconds")):
        for step in data["steps"]:
            colour = size_colour(step["scale"], data["scales"])
            axis.bar(step["index"], step[name] or 0, width=1, color=colour, edgecolor="white", linewidth=0.6)
        axis.set_ylabel(name)
    seconds.set_xlabel("step")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    _legend(figure, data)
    figure.suptitle(_title(data), fontsize=10)
    figure.savefig(path, dpi=120)


def _scores(axis: Any, data: dict[str, Any]) -> None:
    signalled = [step for step in data["steps"] if step["scores"]]
    for column, colour, _ in score_lines(data):
        index = [step["index"] for step in signalled]
        for sample in range(min((len(step["scores"]) for step in signalled), default=0)):
            scores = [step["scores"][sample][column] for step in signalled]
            axis.plot(index, scores, marker="o", markersize=3, color=colour)
    for scale, threshold in score_levels(data):
        axis.axhline(threshold, color=size_colour(scale, data["scales"]), linestyle="--", linewidth=1)
    if any(value > 0 for step in signalled for row in step["scores"] for value in row):
        axis.set_yscale("log")
    if not signalled:
        axis.text(0.5, 0.5, "no scores", transform=axis.transAxes, ha="center", color="grey")
    axis.set_ylabel("change of the input" if data["source"] == "input" else "score (dashed: threshold)")


def _legend(figure: Any, data: dict[str, Any]) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color=size_colour(scale, data["scales"]), label=f"{size_name(scale)}, {count} steps")
        for scale, count in data["steps_per_scale"].items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)


def _title(data: dict[str, Any]) -> str:
    parts = [f"{len(data['steps'])} steps", f"arithmetic {data['speedup_estimate']:.2f} times less"]
    if data["speedup_measured"] is not None:
        parts.append(f"{data['speedup_measured']:.2f} times as fast by step times")
    if data["target_speedup"] is not None:
        parts.append(f"{data['target_speedup']:.2f} asked for")
    return ", ".join(parts)
