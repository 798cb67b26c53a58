"""The picture of frontier.py: a scene, and both yardsticks over model calls; to be read in ten seconds at 880 pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _frontier_methods import FEWER, OURS_EXACT, OURS_RUN

STRONG, PALE = "#c8102e", "#8a8f98"
LINES: dict[str, list[tuple[str, str, str]]] = {
    "run": [
        (OURS_RUN, "ddit_ext", STRONG),
        ("cache-dit, placed", "cache-dit, TaylorSeer", "#2a6fbb"),
        ("Spectrum", "Spectrum", "#3a9d5d"),
        ("diffusers' TaylorSeer", "TaylorSeer in diffusers", "#b07d2b"),
        ("UniPC, placed", "UniPC", "#7a5ea8"),
        (FEWER, "fewer steps", PALE),
    ],
    "exact": [
        (OURS_EXACT, "ddit_ext", STRONG),
        ("UniPC, placed", "UniPC", "#7a5ea8"),
        ("DPM-Solver++ 2M, placed", "DPM-Solver++ 2M", "#b07d2b"),
        ("cache-dit, placed", "cache-dit, TaylorSeer", "#2a6fbb"),
        (FEWER, "fewer steps", PALE),
    ],
}
"""Yardstick -> lines that are drawn: name, label, colour. Lines that were not run are left out."""
HEADS = {
    "run": "Same picture as all 28 steps?\nPSNR to the 28-step run, dB",
    "exact": "Near what infinitely many steps give?\nPSNR to the exact sample, dB",
}


def plot(rows: Sequence[dict[str, Any]], path: Path, scene: Mapping[str, np.ndarray] | None = None) -> None:
    """scene: title -> one picture, uint8 [H, W, 3]; drawn above the charts."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 10, "font.family": "DejaVu Sans"})
    figure = plt.figure(figsize=(8.8, 5.9 if scene else 4.2), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[1.75, 4.15]) if scene else (None, figure)
    if scene:
        for axis, (title, picture) in zip(upper.subplots(1, len(scene)), scene.items(), strict=True):
            axis.imshow(picture, interpolation="lanczos")
            ours = title.startswith("ddit_ext")
            axis.set_title(title, fontsize=9.5, color=STRONG if ours else "black")
            axis.set_xticks([])
            axis.set_yticks([])
            for side in axis.spines.values():
                side.set_visible(ours)
                side.set(color=STRONG, linewidth=2)
    full = next(row for row in rows if row["line"] == "full")
    for axis, (measure, lines) in zip(lower.subplots(1, 2), LINES.items(), strict=True):
        level = full["exact"]["mean"]
        if (
            measure == "exact"
        ):  # of fewer prompts the difference to the full run counts: means differ by prompts
            fewer = [row for row in rows if row["prompts"] < full["prompts"]]
            rows = [
                row | {"exact": {side: value + level for side, value in row["nearer"].items()}}
                if row in fewer
                else row
                for row in rows
            ]
        _chart(axis, rows, measure, lines)
        if measure == "exact":
            right = max(line.get_xdata()[-1] for line in axis.lines)
            axis.plot(
                [axis.get_xlim()[0], right], [level] * 2, color="black", linewidth=1, linestyle=(0, (4, 3))
            )
            axis.text(0.02, level + 0.3, "all 28 steps", transform=axis.get_yaxis_transform(), fontsize=9)
    figure.savefig(path, dpi=200)
    plt.close(figure)


def _chart(
    axis: Any, rows: Sequence[dict[str, Any]], measure: str, lines: Sequence[tuple[str, str, str]]
) -> None:
    ends = []
    for name, label, colour in lines:
        points = [(row["asked"] or row["calls"], row[measure]) for row in rows if row["line"] == name]
        points.sort(key=lambda point: point[0])
        if not points:
            continue
        ours = label == "ddit_ext"
        calls, values = [p[0] for p in points], [p[1]["mean"] for p in points]
        if ours:
            band = [[p[1][side] for p in points] for side in ("low", "high")]
            axis.fill_between(calls, *band, color=colour, alpha=0.13, linewidth=0)
        axis.plot(
            calls,
            values,
            color=colour,
            linewidth=3 if ours else 1.5,
            marker="o",
            markersize=6 if ours else 3.5,
            zorder=3 if ours else 2,
        )
        ends.append((values[-1], calls[-1], label, colour, ours))
    spread = axis.get_ylim()
    gap, last = (spread[1] - spread[0]) * 0.055, -np.inf
    right = max(end[1] for end in ends)
    for value, _, label, colour, ours in sorted(ends):
        last = max(value, last + gap)  # labels that would lie on each other are moved apart
        axis.text(
            right + 0.35,
            last,
            label,
            color=colour,
            fontsize=10 if ours else 9,
            fontweight="bold" if ours else "normal",
            va="center",
        )
    axis.set_xlim(None, right + 6)
    axis.set_xticks([count for count in (5, 7, 9, 11, 15, 18) if count <= right + 0.5])
    axis.set_title(HEADS[measure], fontsize=10, loc="left")
    axis.set_xlabel("model calls, in place of 28")
    axis.grid(alpha=0.25)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
