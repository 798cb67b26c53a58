"""The page of one run: which size each step took, why, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..fidelity import TemporalFidelity
from .page import facts, gallery, notes, page, section, table
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
    counts = ", ".join(
        f"{count} at {size_name(scale)}" if scale else f"{count} not computed"
        for scale, count in data["steps_per_scale"].items()
    )
    return page(
        "A run of ddit_ext",
        f"{len(steps)} steps: {counts}",
        [
            facts(_facts(data)),
            notes(data["warnings"]),
            section("Scale of each step", _strips(steps, scales)),
            section("Scores", _scores(data) if data["source"] else ""),
            section("Tokens a sample", _bars(steps, scales, "tokens", "image tokens")),
            section("Time", _bars(steps, scales, "seconds", "seconds")),
            section("Pictures", gallery(pictures)),
            section("Clips against their references", _fidelity(compared)),
            section("Steps", _table(steps)),
        ],
    )


def score_lines(data: dict[str, Any]) -> list[tuple[int, str, str]]:
    """Column of the scores, colour and name of each line in a chart of them."""
    scales = data["scales"]
    if data["source"] == "input":
        return [(0, size_colour(1, scales), "change of the input")]
    return [
        (column, size_colour(scale, scales), f"score at {size_name(scale)}")
        for column, scale in enumerate(scales)
        if scale > 1
    ]


def score_levels(data: dict[str, Any]) -> list[tuple[int, float]]:
    """Sizes and their thresholds, where they are those of the scores themselves: not of a sum over steps."""
    return (
        [] if data["source"] == "input" else list(zip(data["scales"][1:], data["thresholds"], strict=False))
    )


def _facts(data: dict[str, Any]) -> dict[str, str]:
    shown = {"steps": str(len(data["steps"])), "seconds, all steps": f"{data['seconds']:.2f}"}
    if data.get("target_speedup"):
        shown["speed asked for"] = f"{data['target_speedup']:.2f}×"
    if data.get("speedup_measured"):
        shown["speed, by this run's step times"] = f"{data['speedup_measured']:.2f}×"
    shown["speed, by arithmetic"] = f"{data['speedup_estimate']:.2f}×"
    return shown


def _hint(step: dict[str, Any]) -> str:
    tokens = "" if step["tokens"] is None else f"{step['tokens']} tokens, "
    return (
        f"step {step['index']}, sigma {step['noise_level']:.3f}: {size_name(step['scale'])}, "
        f"{tokens}{step['seconds']:.3f} s"
    )


def _strips(steps: list[dict[str, Any]], scales: list[int]) -> str:
    hints = [_hint(step) for step in steps]
    taken = [step["scale"] for step in steps]
    drawn = [strip(taken, [size_colour(scale, scales) for scale in taken], hints)]
    samples = min((len(step["scales"]) for step in steps), default=0)
    if any(len(set(step["scales"])) > 1 for step in steps):
        drawn.append("<p class='lead'>and what each sample alone would have taken:</p>")
        for sample in range(min(samples, STRIPS)):
            own = [step["scales"][sample] for step in steps]
            drawn.append(strip(own, [size_colour(scale, scales) for scale in own], hints))
    return "".join(drawn)


def _scores(data: dict[str, Any]) -> str:
    chart = Chart("scores over steps", "step", "score", log=True, steps=len(data["steps"]))
    signalled = [step for step in data["steps"] if step["scores"]]
    for scale, threshold in score_levels(data):
        chart.level(
            threshold, size_colour(scale, data["scales"]), f"threshold of {size_name(scale)}: {threshold:.2g}"
        )
    for column, colour, name in score_lines(data):
        for sample in range(min((len(step["scores"]) for step in signalled), default=0)):
            points = [(step["index"], step["scores"][sample][column]) for step in signalled]
            chart.line(points, colour, name)
            for index, score in points:
                chart.dot((index, score), colour, f"step {index}, {name}: {score:.2e}")
    if chart.empty:
        return "<p class='lead'>No step of this run had scores: its schedule does not ask for them.</p>"
    return chart.svg()


def _bars(steps: list[dict[str, Any]], scales: list[int], name: str, label: str) -> str:
    if not steps or any(step[name] is None for step in steps):
        return ""
    chart = Chart(f"{label} of each step", "step", label, height=150, steps=len(steps))
    for step in steps:
        chart.bar(step["index"], step[name], size_colour(step["scale"], scales), _hint(step))
    return chart.svg()


def _fidelity(compared: TemporalFidelity | None) -> str:
    if compared is None:
        return ""
    frames = compared.frame_psnr.shape[1]
    numbers = {
        "PSNR of a frame, mean": f"{compared.frame_psnr.mean():.1f} dB",
        "flicker, of 255 grey levels": f"{compared.flicker.mean():.2f}",
        "motion, of the references'": f"{np.nanmean(compared.motion):.2f}×" if frames > 1 else "–",
    }
    chart = Chart("PSNR of each frame", "frame", "dB", height=150, steps=frames)
    for index, value in enumerate(compared.frame_psnr.mean(axis=0)):
        chart.bar(index, float(value), "#3b4cc0", f"frame {index}: {value:.1f} dB")
    return facts(numbers) + chart.svg()


def _table(steps: list[dict[str, Any]]) -> str:
    rows = []
    for step in steps:
        scores = step["scores"] or []
        shown = "; ".join(" / ".join(f"{score:.1e}" for score in row) for row in scores[:STRIPS])
        if len(scores) > STRIPS:
            shown += "; …"
        rows.append(
            [
                str(step["index"]),
                f"{step['noise_level']:.3f}",
                size_name(step["scale"]),
                "–" if step["tokens"] is None else str(step["tokens"]),
                f"{step['seconds']:.3f}",
                shown or "–",
            ]
        )
    return table(["step", "sigma", "scale", "tokens", "seconds", "scores, one a scale"], rows)
