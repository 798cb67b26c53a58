"""Fidelity over measured speed as a picture: a line a kind of method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _quality import ALIKE

LABELS = {"psnr": "PSNR to fixed p, dB", "accuracy": "prompt accuracy", "frechet": "Fréchet distance"}
STACKED = ", on sizes"
"""End of a line's name: it is drawn dotted, in the colour of the line without."""


def plot_lines(
    rows: Sequence[dict[str, Any]], path: Path, measures: Sequence[str], thick: Sequence[str] = ()
) -> None:
    """Write a picture of rows with "line", "speed" and the measures; a chart a measure. thick: lines that stand out."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    figure, axes = plt.subplots(
        1, len(measures), figsize=(6.5 * len(measures) + 3, 6), layout="constrained", squeeze=False
    )
    names = list(dict.fromkeys(row["line"] for row in rows))
    hues = list(dict.fromkeys(name.removesuffix(STACKED) for name in names))
    for axis, measure in zip(axes[0], measures, strict=True):
        for name in names:
            points = sorted(
                (row for row in rows if row["line"] == name), key=lambda row: row["speed"]["mean"]
            )
            values = [row[measure]["mean"] for row in points]
            bars = [
                [abs(row[measure][side] - row[measure]["mean"]) for row in points] for side in ("low", "high")
            ]
            axis.errorbar(
                [row["speed"]["mean"] for row in points],
                values,
                bars,
                color=plt.get_cmap("tab20")(hues.index(name.removesuffix(STACKED)) % 20),
                linestyle=":" if name.endswith(STACKED) else "-",
                linewidth=2.4 if name in thick else 1.1,
                marker="o",
                markersize=6 if name in thick else 3.5,
                capsize=2,
                elinewidth=0.7,
                label=name,
            )
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(FixedLocator([0.5, 1, 1.5, 2, 3, 4, 6, 8]))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}x"))
        axis.set_xlabel("measured speed, times fixed p")
        axis.set_ylabel(LABELS[measure])
        if measure == "psnr":
            axis.set_ylim(top=min(axis.get_ylim()[1], ALIKE))
        axis.grid(alpha=0.3)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
