"""Pictures from a real, trained FLUX pipeline, with patch sizes that change from step to step.

    python examples/demo.py --out demo_output

Draws the same prompts and seeds at the fixed patch size, and at a target speed with dynamic patches, with skipped steps whose
features are forecast, and as a control with so many fewer steps. Writes ``contact_sheet.png`` (the pictures side by side, the
size of every step between them), ``run.html`` (one run in detail), ``report.json`` and ``table.md`` (time, steps per size,
fidelity).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from side_by_side import WAYS, Drawing, check_steps, draw_all, legend, table, token_bars
from tqdm import tqdm

from ddit_ext import embedded

PROMPTS = (
    "a pizza and a penguin on blue stripes",
    "a rocket on plain purple",
    "a panda on a green gradient",
    "a cat and a watermelon on pink dots",
    "a snowman on red checks",
    "a sunflower and a butterfly on plain blue",
)

FORECAST = {"forecast": 0.75, "corrector": 1.0}


def contact_sheet(drawings: list[Drawing], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(drawings),
        5,
        figsize=(21, 1.75 * len(drawings) + 0.6),
        width_ratios=(4, 3, 4, 4, 4),
        constrained_layout=True,
    )
    for row, drawing in zip(axes, drawings, strict=True):
        pictures = (row[0], *row[2:])
        for axis, shown, name, seconds in zip(pictures, drawing.shown, WAYS, drawing.seconds, strict=True):
            axis.imshow(np.concatenate(list(shown), axis=1), interpolation="nearest")
            axis.set_title(f"{name}, {seconds:.1f} s", fontsize=9)
            axis.axis("off")
        token_bars(row[1], drawing)
    legend(figure)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo_output"))
    parser.add_argument(
        "--steps", type=int, default=embedded.STEPS, help="denoising steps (default: %(default)s)"
    )
    parser.add_argument("--pictures", type=int, default=4, help="pictures a prompt (default: %(default)s)")
    parser.add_argument("--target-speedup", type=float, default=2.0, help="default: %(default)s")
    arguments = parser.parse_args()
    check_steps(parser, arguments.steps, arguments.target_speedup)
    arguments.out.mkdir(parents=True, exist_ok=True)

    model = embedded.load("flux")

    def draw(prompt: str, seed: int, steps: int) -> np.ndarray:
        images = model.pipeline(
            prompt,
            num_images_per_prompt=arguments.pictures,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        ).images
        return np.uint8(np.rint(images * 255))

    def drawn(prompt: str, seed: int) -> Drawing:
        return draw_all(model, draw, prompt, seed, arguments.steps, arguments.target_speedup, FORECAST)

    drawn(PROMPTS[0], 0)  # warm up
    drawings = [
        drawn(prompt, seed) for seed, prompt in enumerate(tqdm(PROMPTS, desc="prompts", unit="prompt"))
    ]
    contact_sheet(drawings, arguments.out / "contact_sheet.png")
    shown = table(model, drawings)
    (arguments.out / "table.md").write_text(shown + "\n")
    drawings[0].report.html(arguments.out / "run.html")
    reports = {drawing.prompt: drawing.report.to_dict() for drawing in drawings}
    (arguments.out / "report.json").write_text(json.dumps(reports, indent=1) + "\n")
    print(shown)
    print(f"\nPictures: {arguments.out / 'contact_sheet.png'}")


if __name__ == "__main__":
    main()
