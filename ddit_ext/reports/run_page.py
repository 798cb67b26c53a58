"""The page of one run: which size each step took, why, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..fidelity import TemporalFidelity
from .page import facts, gallery, notes, page, section, table
from .run_charts import hint, run_charts
from .svg import Chart, size_colour, size_name, strip

STRIPS = 8
"""At most so many samples get a strip of their own."""


def run_page(
    data: dict[str, Any],
    pictures: Mapping[str, Any] | Sequence[Any] | None = None,
    compared: TemporalFidelity | None = None,
) -> str:
    """HTML of `Report.to_dict()`'s data; pictures: {caption: picture} or a list, PIL or uint8 [H, W, 3]."""
    steps, scales = data["steps"], data["scales"]
    return page(
        "A run of ddit_ext",
        "; ".join(data["summary"]),
        [
            facts(_facts(data)),
            notes(data["warnings"]),
            section("Scale of each step", _strips(steps, scales, data["uncomputed"])),
            *(section(heading, chart.svg()) for heading, chart in run_charts(data).items()),
            section("Pictures", gallery(pictures)),
            section("Clips against their references", _fidelity(compared)),
            section("Steps", _table(steps, data["uncomputed"])),
        ],
    )


def _facts(data: dict[str, Any]) -> dict[str, str]:
    shown = {"steps": str(len(data["steps"])), "seconds, all steps": f"{data['seconds']:.2f}"}
    if data.get("target_speedup"):
        shown["speed asked for"] = f"{data['target_speedup']:.2f}×"
    if data.get("speedup_measured"):
        shown["speed, by this run's step times"] = f"{data['speedup_measured']:.2f}×"
    shown["speed, by arithmetic"] = f"{data['speedup_estimate']:.2f}×"
    return shown


def _strips(steps: list[dict[str, Any]], scales: list[int], uncomputed: str) -> str:
    hints = [hint(step, uncomputed) for step in steps]
    taken = [step["scale"] for step in steps]
    drawn = [strip(taken, [size_colour(scale, scales) for scale in taken], hints)]
    if not all(taken):
        drawn.append(f"<p class='lead'>Grey: {uncomputed}.</p>")
    samples = min((len(step["scales"]) for step in steps), default=0)
    if any(len(set(step["scales"])) > 1 for step in steps):
        drawn.append("<p class='lead'>and what each sample alone would have taken:</p>")
        for sample in range(min(samples, STRIPS)):
            own = [step["scales"][sample] for step in steps]
            drawn.append(strip(own, [size_colour(scale, scales) for scale in own], hints))
    return "".join(drawn)


def _fidelity(compared: TemporalFidelity | None) -> str:
    if compared is None:
        return ""
    frames, moving = compared.frame_psnr.shape[1], compared.motion[np.isfinite(compared.motion)]
    numbers = {
        "PSNR of a frame, mean": f"{compared.frame_psnr.mean():.1f} dB",
        "flicker, of 255 grey levels": f"{compared.flicker.mean():.2f}",
        "motion, of the references'": f"{moving.mean():.2f}×" if moving.size else "–",
    }
    chart = Chart("PSNR of each frame", "frame", "dB", height=150, steps=frames)
    for index, value in enumerate(compared.frame_psnr.mean(axis=0)):
        chart.bar(index, float(value), "#3b4cc0", f"frame {index}: {value:.1f} dB")
    return facts(numbers) + chart.svg()


def _table(steps: list[dict[str, Any]], uncomputed: str) -> str:
    """A row a step; scores and tokens have a column where a step has them."""
    scored = any(step["scores"] for step in steps)
    counted = any(step["tokens"] is not None for step in steps)
    rows = []
    for step in steps:
        row = [str(step["index"]), f"{step['noise_level']:.3f}", size_name(step["scale"], uncomputed)]
        if counted:
            row.append("–" if step["tokens"] is None else f"{step['tokens']:.6g}")
        row.append(f"{step['seconds']:.3f}" if step["seconds"] else "–")
        rows.append([*row, _shown(step["scores"])] if scored else row)
    head = ["step", "sigma", "scale", *(["tokens"] if counted else []), "seconds"]
    return table([*head, "scores, one a scale"] if scored else head, rows)


def _shown(scores: list[list[float]] | None) -> str:
    shown = "; ".join(" / ".join(f"{score:.1e}" for score in row) for row in (scores or [])[:STRIPS])
    return (shown + "; …" if len(scores or []) > STRIPS else shown) or "–"
