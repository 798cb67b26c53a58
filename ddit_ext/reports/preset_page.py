"""The page of a calibration: what was tried, how fast and how close it was, and what was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .page import facts, gallery, page, section, table
from .svg import Chart, size_colour, size_name, strip

if TYPE_CHECKING:
    from ..calibration.preset import Candidate, Preset

KINDS = {
    "fewer steps at p": "#3b4cc0",
    "fixed sizes": "#e08a4f",
    "sizes by the scores": "#8e44ad",
    "steps skipped": "#2e8b57",
    "steps forecast": "#b8860b",
}


def preset_page(preset: Preset, pictures: Mapping[str, Any] | Sequence[Any] | None = None) -> str:
    """HTML of a preset; pictures: {caption: picture} or a list, PIL or uint8 [H, W, 3]."""
    height, width = preset.picture
    return page(
        f"Calibrated to {preset.target_speedup:g} times the speed",
        preset.explanation,
        [
            facts(
                {
                    "times as fast": f"{preset.speed:.2f}×",
                    "dB to the full sample": f"{preset.psnr:.1f}",
                    "steps to ask for": str(preset.steps),
                    "steps of the full run": str(preset.full_steps),
                    "pixels": f"{width}×{height}",
                    "samples a call": str(preset.batch),
                }
            ),
            section("Speed against fidelity", _chart(preset)),
            section("Size of each step", _schedule(preset)),
            section("Pictures", gallery(pictures)),
            section("All that was tried", _candidates(preset)),
            section("One step", _step_costs(preset)),
            section("Where this holds", _origin(preset)),
        ],
    )


def _kind(candidate: Candidate) -> str:
    if candidate.choice.fine:
        return "fewer steps at p"
    if candidate.choice.kind == "forecasts":
        return "steps forecast"
    if not candidate.choice.may_be_coarse:
        return "steps skipped"
    return "fixed sizes" if candidate.choice.fixed else "sizes by the scores"


def _chart(preset: Preset) -> str:
    chart = Chart(
        "speed against fidelity",
        "measured speed, times the full run",
        "PSNR to the full sample, dB",
        height=320,
        whole=False,
    )
    chart.rule(preset.target_speedup, "#888888", "asked for")
    for candidate in preset.candidates:
        hint = f"{candidate.choice.words()}: {candidate.speed:.2f}×, {candidate.psnr:.1f} dB"
        kind = _kind(candidate)
        chosen = candidate.choice == preset.choice
        chart.dot((candidate.speed, candidate.psnr), KINDS[kind], hint, label=kind, marked=chosen)
    return chart.svg() + "<p class='lead'>The ring marks what was chosen.</p>"


def _schedule(preset: Preset) -> str:
    if not preset.choice.may_be_coarse and not preset.choice.fixed:
        return "<p class='lead'>p, or skipped: chosen anew in each run, by how much the model's input changes.</p>"
    if not preset.choice.fixed:
        return "<p class='lead'>Chosen anew in each run, by the scores of its latents.</p>"
    strategy = preset.choice.strategy(preset.scales, preset.quantile)
    if preset.choice.kind == "forecasts":
        return f"<p class='lead'>{preset.choice.words()}</p>"
    sizes = strategy.sizes_of(preset.run_steps)
    hints = [f"step {step}" for step in range(len(sizes))]
    return strip(sizes, [size_colour(scale, preset.scales) for scale in sizes], hints)


def _candidates(preset: Preset) -> str:
    from ..calibration.preset import candidate_cells

    marked = [candidate.choice == preset.choice for candidate in preset.candidates]
    return table(
        ["steps and sizes", "predicted", "measured", "PSNR, dB", "runs"],
        [candidate_cells(candidate) for candidate in preset.candidates],
        marked.index(True) if any(marked) else None,
    )


def _step_costs(preset: Preset) -> str:
    fine = preset.step_seconds[1]
    rows = [
        [size_name(scale), f"{seconds:.4g}", f"{seconds / fine:.2f}"]
        for scale, seconds in sorted(preset.step_seconds.items())
    ]
    return table(["size", "seconds", "of a step at p"], rows)


def _origin(preset: Preset) -> str:
    frames, rows, columns = preset.grid
    facts_of = {
        "pipeline": preset.pipeline,
        "sampler": preset.sampler["class"],
        "tokens": f"{frames}×{rows}×{columns}",
        "dtype": preset.dtype,
        "adapter": preset.adapter if len(preset.adapter) < 20 else preset.adapter[:12],
        "device": f"{preset.device}, {preset.threads} CPU threads",
        **preset.versions,
    }
    return table(["", ""], [[name, value] for name, value in facts_of.items()])
