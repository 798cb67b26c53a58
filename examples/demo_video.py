"""Clips from a real, trained Wan pipeline, with patch sizes that change from step to step.

    python examples/demo_video.py --out demo_video_output

Draws the same prompts and seeds at the fixed patch size, and at a target speed with dynamic patches, with skipped steps whose
features are forecast, and as a control with so many fewer steps. Writes ``clips.gif`` (a row a prompt, the ways side by side),
``contact_sheet.png`` (their frames, and the size of every step), ``run.html`` (one run in detail, with its temporal
fidelity), ``report.json`` and ``table.md`` (time, steps per size, fidelity, flicker, motion).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from side_by_side import WAYS, Drawing, check_steps, draw_all, legend, table, token_bars
from tqdm import tqdm

from ddit_ext import embedded
from ddit_ext.fidelity import temporal_fidelity

PROMPTS = (
    "a spinning pizza on red checks",
    "a bouncing penguin on blue stripes",
    "a growing sunflower on plain purple",
    "a drifting apple on a green gradient",
    "a growing pumpkin on yellow dots",
    "a drifting whale on plain blue",
)
FORECAST = {"forecast": 0.5}  # this pipeline's sampler takes no corrector
ENLARGED, FRAME_MILLISECONDS = 2, 160
MEASURES = {
    "flicker": lambda shown, fixed: float(temporal_fidelity(shown, fixed).flicker.mean()),
    "motion": lambda shown, fixed: float(np.nanmean(temporal_fidelity(shown, fixed).motion)),
}


def animate(drawings: list[Drawing], path: Path) -> None:
    """A row a prompt, a column a way."""
    rows = [np.concatenate([shown[0] for shown in drawing.shown], axis=2) for drawing in drawings]
    frames = np.concatenate(rows, axis=1).repeat(ENLARGED, axis=1).repeat(ENLARGED, axis=2)
    first, *rest = (Image.fromarray(frame) for frame in frames)
    first.save(path, save_all=True, append_images=rest, duration=FRAME_MILLISECONDS, loop=0)


def contact_sheet(drawings: list[Drawing], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(12, 4.5 * len(drawings) + 0.6), constrained_layout=True)
    ways = len(WAYS)
    grid = figure.add_gridspec(ways * len(drawings), 2, width_ratios=(3, 8))
    for number, drawing in enumerate(drawings):
        token_bars(figure.add_subplot(grid[ways * number : ways * (number + 1), 0]), drawing)
        for way, (shown, name, seconds) in enumerate(zip(drawing.shown, WAYS, drawing.seconds, strict=True)):
            axis = figure.add_subplot(grid[ways * number + way, 1])
            axis.imshow(np.concatenate(list(shown[0]), axis=1), interpolation="nearest")
            axis.set_title(f"{name}, {seconds:.1f} s", fontsize=9)
            axis.axis("off")
    legend(figure)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo_video_output"))
    parser.add_argument(
        "--steps", type=int, default=embedded.STEPS, help="denoising steps (default: %(default)s)"
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

    def drawn(prompt: str, seed: int) -> Drawing:
        return draw_all(model, draw, prompt, seed, arguments.steps, arguments.target_speedup, FORECAST)

    drawn(PROMPTS[0], 0)  # warm up
    drawings = [
        drawn(prompt, seed) for seed, prompt in enumerate(tqdm(PROMPTS, desc="prompts", unit="prompt"))
    ]
    animate(drawings, arguments.out / "clips.gif")
    contact_sheet(drawings, arguments.out / "contact_sheet.png")
    shown = table(model, drawings, MEASURES)
    (arguments.out / "table.md").write_text(shown + "\n")
    fixed, dynamic, *_ = drawings[0].shown
    drawings[0].report.html(arguments.out / "run.html", clips=dynamic, references=fixed)
    reports = {drawing.prompt: drawing.report.to_dict() for drawing in drawings}
    (arguments.out / "report.json").write_text(json.dumps(reports, indent=1) + "\n")
    print(shown)
    print(f"\nClips: {arguments.out / 'clips.gif'}, their frames: {arguments.out / 'contact_sheet.png'}")


if __name__ == "__main__":
    main()
