"""Clips from a real, trained Wan pipeline: the full run, and three ways to spend about half of its time.

    python examples/demo_video.py --out demo_video_output

Draws the same prompts and seeds in full, with forecast steps, with larger patches, and with fewer steps. Writes ``clips.gif``
(a row a prompt, a column a way), ``contact_sheet.png`` (their frames), ``run.html`` (the forecast run, with its fidelity
frame by frame), ``report.json`` and ``table.md``. Times are medians of interleaved repeats.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from side_by_side import Drawing, Way, check_steps, draw_all, headings, table

from ddit_ext import Budget, Forecast, embedded
from ddit_ext.fidelity import temporal_fidelity

PROMPTS = (
    "a spinning pizza on red checks",
    "a bouncing penguin on blue stripes",
    "a growing sunflower on plain purple",
    "a drifting apple on a green gradient",
    "a growing pumpkin on yellow dots",
    "a drifting whale on plain blue",
)
ENLARGED, FRAME_MILLISECONDS = 2, 160
ON_SHEET = slice(None, None, 2)  # every second prompt: all of them would be too tall for a page
MEASURES = {
    "flicker": lambda shown, full: float(temporal_fidelity(shown, full).flicker.mean()),
    "motion": lambda shown, full: float(np.nanmean(temporal_fidelity(shown, full).motion)),
}


def ways(model: embedded.Embedded, steps: int, target: float) -> list[Way]:
    """The full run, and three ways that take about 1 / target of its time."""
    calls = max(2, round(steps / target))
    # Full-size steps at both ends come closest at this speed by larger patches alone.
    larger = Budget(target, scales=(1, 2), protect=(steps // 9, steps // 14))
    return [
        Way("full run", steps),
        Way("forecast", steps, {"schedule": Forecast(calls=calls)}),
        Way("larger patches", steps, {"adapter": model.adapter, "schedule": larger}),
        Way(f"{calls} plain steps", calls),
    ]


def animate(drawings: Sequence[Drawing], path: Path) -> None:
    """A row a prompt, a column a way."""
    rows = [np.concatenate([shown[0] for shown in drawing.shown], axis=2) for drawing in drawings]
    frames = np.concatenate(rows, axis=1).repeat(ENLARGED, axis=1).repeat(ENLARGED, axis=2)
    first, *rest = (Image.fromarray(frame) for frame in frames)
    first.save(path, save_all=True, append_images=rest, duration=FRAME_MILLISECONDS, loop=0)


def contact_sheet(names: Sequence[str], drawings: Sequence[Drawing], path: Path) -> None:
    """For each prompt a row a way, with the clip's frames."""
    count = len(names) * len(drawings)
    figure, axes = plt.subplots(count, 1, figsize=(11, 1.15 * count), constrained_layout=True)
    for number, axis in enumerate(np.atleast_1d(axes)):
        drawing, way = drawings[number // len(names)], number % len(names)
        axis.imshow(np.concatenate(list(drawing.shown[way][0]), axis=1), interpolation="nearest")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
        axis.set_ylabel(names[way], fontsize=10, rotation=0, ha="right", va="center")
        if way == 0:
            axis.set_title(drawing.prompt, fontsize=11, loc="left")
    figure.savefig(path, dpi=110, bbox_inches="tight")  # long names stick out to the left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo_video_output"))
    parser.add_argument(
        "--steps", type=int, default=embedded.STEPS, help="denoising steps (default: %(default)s)"
    )
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="how many (default: all)")
    parser.add_argument(
        "--repeats", type=int, default=1, help="timed runs of each clip (default: %(default)s)"
    )
    parser.add_argument("--target-speedup", type=float, default=2.0, help="default: %(default)s")
    arguments = parser.parse_args()
    check_steps(parser, arguments.steps, arguments.target_speedup)
    arguments.out.mkdir(parents=True, exist_ok=True)

    model = embedded.load("wan")

    def draw(prompt: str, seed: int, steps: int) -> np.ndarray:
        frames = model.pipeline(
            prompt, num_inference_steps=steps, generator=torch.Generator().manual_seed(seed)
        ).frames
        return np.uint8(np.rint(frames * 255))

    used = ways(model, arguments.steps, arguments.target_speedup)
    drawings = draw_all(model.pipeline, draw, used, PROMPTS[: arguments.prompts], arguments.repeats)
    animate(drawings, arguments.out / "clips.gif")
    names = headings(model, drawings, used)
    contact_sheet(names, drawings[ON_SHEET], arguments.out / "contact_sheet.png")
    shown = table(model, drawings, [way.name for way in used], MEASURES)
    (arguments.out / "table.md").write_text(shown + "\n")
    full, forecast, *_ = drawings[0].shown
    drawings[0].reports[1].html(arguments.out / "run.html", clips=forecast, references=full)
    reports = {drawing.prompt: drawing.reports[1].to_dict() for drawing in drawings}
    (arguments.out / "report.json").write_text(json.dumps(reports, indent=1) + "\n")
    files = {"Clips": "clips.gif", "Frames": "contact_sheet.png", "One run": "run.html"}
    print(f"\n{shown}\n")
    for what, name in files.items():
        print(f"{what}: {arguments.out / name}")


if __name__ == "__main__":
    main()
