"""The page of a calibration: what was tried, how fast and how close it was, and what was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .page import facts, gallery, page, section, table
from .svg import Chart, size_colour, size_name, strip

if TYPE_CHECKING:
    from ..presets import Candidate, Preset

KINDS = {
    "Fixed": ("#e08a4f", "fixed scales"),
    "Threshold": ("#8e44ad", "scales by scores"),
    "Budget": ("#8e44ad", "scales by scores"),
    "TeaCache": ("#2e8b57", "steps skipped"),
    "Forecast": ("#b8860b", "steps forecast"),
}
"""Colour and name of each kind of candidate."""

FEWER = ("#3b4cc0", "fewer steps")
"""Those of full-size steps alone."""

AROUND = 1.25
"""The speeds up to so many times the target are always in the chart."""

OUTLIERS = 2
"""A point beyond so many times the target is drawn at the edge: a stalled run would squeeze all others."""


def preset_page(preset: Preset, pictures: Mapping[str, Any] | Sequence[Any] | None = None) -> str:
    """HTML of a preset; pictures: as in `Preset.html`."""
    height, width = preset.picture
    compared = "dB to the full run" if preset.target == "run" else "dB to the exact sample"
    return page(
        f"Calibrated to {preset.target_speedup:g} times the speed",
        preset.explanation,
        [
            facts(
                {
                    "times as fast": f"{preset.speed:.2f}×",
                    compared: f"{preset.psnr:.1f}",
                    **({preset.measure: f"{preset.score:.3g}"} if preset.measure else {}),
                    "steps to ask for": str(preset.steps),
                    "steps of the full run": str(preset.full_steps),
                    "pixels": f"{width}×{height}",
                    "samples a call": str(preset.batch),
                }
            ),
            section("Speed against fidelity", _chart(preset)),
            section("Scale of each step", _schedule(preset)),
            section("Pictures", gallery(pictures)),
            section("All that was tried", _candidates(preset)),
            section("One step", _step_costs(preset)),
            section("Where this holds", _origin(preset)),
        ],
    )


def _kind(candidate: Candidate) -> tuple[str, str]:
    kind = type(candidate.strategy).__name__
    return FEWER if kind == "Fixed" and not candidate.strategy.coarse else KINDS[kind]


def _chart(preset: Preset) -> str:
    chart = Chart(
        "speed against fidelity",
        "measured speed, times the full run",
        preset.measure or "PSNR, dB",
        height=320,
        whole=False,
        across=(
            1.0,
            AROUND * preset.target_speedup,
        ),  # speeds that differ by a clock's error lie close together
    )
    chart.rule(preset.target_speedup, "#888888", "asked for")
    most = OUTLIERS * preset.target_speedup
    for candidate in preset.candidates:
        beyond = " (drawn at the edge)" if candidate.speed > most else ""
        score = f"{preset.measure} {candidate.score:.3g}, " if preset.measure else ""
        hint = f"{candidate.words()}: {candidate.speed:.2f}×, {score}{candidate.psnr:.1f} dB{beyond}"
        colour, kind = _kind(candidate)
        place = (min(candidate.speed, most), candidate.closeness)
        chart.dot(place, colour, hint, label=kind, marked=preset.chose(candidate))
    return chart.svg() + "<p class='lead'>The ring marks what was chosen.</p>"


def _schedule(preset: Preset) -> str:
    sizes = preset.strategy.computed_scales(preset.run_steps)
    if sizes is None or len(sizes) != preset.run_steps:
        return ""
    hints = [f"step {step}" for step in range(len(sizes))]
    return strip(sizes, [size_colour(scale, preset.strategy.scales) for scale in sizes], hints)


def _candidates(preset: Preset) -> str:
    marked = next((i for i, candidate in enumerate(preset.candidates) if preset.chose(candidate)), None)
    rows = [candidate.cells() for candidate in preset.candidates]
    return table(preset.columns, rows, marked)


def _step_costs(preset: Preset) -> str:
    fine = preset.step_seconds[1]
    rows = [
        [size_name(scale), f"{seconds:.4g}", f"{seconds / fine:.2f}"]
        for scale, seconds in sorted(preset.step_seconds.items())
    ]
    return table(["scale", "seconds", "in full-size steps"], rows)


def _origin(preset: Preset) -> str:
    tokens = "–" if preset.grid is None else "×".join(map(str, preset.grid))
    facts_of = {
        "pipeline": preset.pipeline,
        "sampler": preset.sampler["class"],
        "tokens": tokens,
        "dtype": preset.dtype,
        "adapter": preset.adapter if len(preset.adapter) < 20 else preset.adapter[:12],
        "device": f"{preset.device}, {preset.threads} CPU threads",
        **preset.versions,
    }
    return table(["", ""], list(facts_of.items()))
