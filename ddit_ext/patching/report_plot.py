"""The picture of a run: scores against their thresholds above, the size each step took below."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3")


def draw(data: dict[str, Any], path: Path) -> None:
    """Write the picture of `Report.to_dict()`'s data to `path`; its ending names the format."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("report.plot needs matplotlib: pip install matplotlib") from error

    steps, scales = data["steps"], data["scales"]
    colour = {scale: COLOURS[i % len(COLOURS)] for i, scale in enumerate(scales)}
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))

    signalled = [step for step in steps if step["scores"]]
    for column, scale in enumerate(scales):
        if scale == 1:
            continue
        index = [step["index"] for step in signalled]
        for sample in range(max((len(step["scores"]) for step in signalled), default=0)):
            scores = [step["scores"][sample][column] for step in signalled]
            label = f"{scale}x" if sample == 0 else None
            above.plot(index, scores, marker="o", markersize=3, color=colour[scale], label=label)
    for scale, threshold in zip(scales[1:], data["thresholds"], strict=False):
        above.axhline(threshold, color=colour[scale], linestyle="--", linewidth=1)
    if signalled and any(value > 0 for step in signalled for row in step["scores"] for value in row):
        above.set_yscale("log")
    if signalled:
        above.legend(title="patch size", fontsize=8)
    else:
        above.text(0.5, 0.5, "no scores", transform=above.transAxes, ha="center", color="grey")
    above.set_ylabel("score (dashed: threshold)")
    above.set_title(f"{len(steps)} steps, arithmetic {data['speedup_estimate']:.2f} times less", fontsize=10)

    for step in steps:
        below.bar(
            step["index"], step["scale"], width=1, color=colour.get(step["scale"], "grey"), edgecolor="white"
        )
    below.set_yticks(scales)
    below.set_ylabel("patch size")
    below.set_xlabel("step")
    figure.savefig(path, dpi=120)
