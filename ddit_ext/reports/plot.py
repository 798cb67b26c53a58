"""A run's charts as one picture, by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .run_charts import run_charts
from .svg import size_colour, size_name


def draw(data: dict[str, Any], path: Path) -> None:
    """Write the charts of `Report.to_dict()`'s data to `path`; its ending names the format."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise ImportError("report.plot needs matplotlib: pip install matplotlib") from error

    charts = list(run_charts(data).values())
    if not charts:
        raise ValueError("report: there is nothing to plot: no step of this run came to its end")
    heights = [chart.height for chart in charts]
    figure = Figure(figsize=(8, 0.9 + sum(heights) / 75), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(charts), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axis, chart in zip(axes, charts, strict=True):
        chart.draw(axis)
    for axis in axes[:-1]:
        axis.set_xlabel("")
    handles = [
        Patch(color=size_colour(scale, data["scales"]), label=f"{size_name(scale)}: {count} steps")
        for scale, count in data["steps_per_scale"].items()
        if count
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    figure.suptitle("\n".join(data["summary"]), fontsize=9)
    figure.savefig(path, dpi=120)
