"""The charts of one run, for its page and for `Report.plot`. A chart that would be empty is left out."""

from __future__ import annotations

from typing import Any

from .svg import Chart, size_colour, size_name


def run_charts(data: dict[str, Any]) -> dict[str, Chart]:
    """Charts of `Report.to_dict()`'s data by their headings."""
    tokens = {step["tokens"] for step in data["steps"] if step["scale"]}
    made = {
        "Scores": _scores(data) if data["source"] else None,
        "Tokens a sample": _bars(data, "tokens", "image tokens") if len(tokens) > 1 else None,
        "Time": _bars(data, "seconds", "seconds"),
    }
    return {heading: chart for heading, chart in made.items() if chart is not None and not chart.empty}


def hint(step: dict[str, Any], uncomputed: str) -> str:
    """One step in a line."""
    tokens = "" if step["tokens"] is None else f"{step['tokens']} tokens, "
    return (
        f"step {step['index']}, sigma {step['noise_level']:.3f}: {size_name(step['scale'], uncomputed)}, "
        f"{tokens}{step['seconds']:.3f} s"
    )


def _scores(data: dict[str, Any]) -> Chart:
    chart = Chart("scores over steps", "step", "score", log=True, steps=len(data["steps"]))
    signalled = [step for step in data["steps"] if step["scores"]]
    for scale, threshold in _levels(data):
        chart.level(
            threshold, size_colour(scale, data["scales"]), f"threshold of {size_name(scale)}: {threshold:.2g}"
        )
    for column, colour, name in _lines(data):
        for sample in range(min((len(step["scores"]) for step in signalled), default=0)):
            points = [(step["index"], step["scores"][sample][column]) for step in signalled]
            chart.line(points, colour, name)
            for index, score in points:
                chart.dot((index, score), colour, f"step {index}, {name}: {score:.2e}")
    return chart


def _lines(data: dict[str, Any]) -> list[tuple[int, str, str]]:
    """Column of the scores, colour and name of each line."""
    scales = data["scales"]
    if data["source"] == "input":
        return [(0, size_colour(1, scales), "change of the input")]
    return [
        (column, size_colour(scale, scales), f"score at {size_name(scale)}")
        for column, scale in enumerate(scales)
        if scale > 1
    ]


def _levels(data: dict[str, Any]) -> list[tuple[int, float]]:
    """Scales and their thresholds, where they are those of the scores themselves: not of a sum over steps."""
    if data["source"] == "input":
        return []
    return list(zip(data["scales"][1:], data["thresholds"], strict=False))


def _bars(data: dict[str, Any], name: str, label: str) -> Chart:
    chart = Chart(f"{label} of each step", "step", label, height=150, steps=len(data["steps"]))
    for step in data["steps"]:
        if step[name]:
            chart.bar(
                step["index"],
                step[name],
                size_colour(step["scale"], data["scales"]),
                hint(step, data["uncomputed"]),
            )
    return chart
