"""Images from a real, trained FLUX pipeline: the full run, a forecast at twice its speed, and three ways at nine times.

    python examples/demo.py --out demo_output

Draws the same prompts and seeds in full, by a forecast that repeats the picture, and with a ninth of the
time: a forecast whose first calls have larger patches, a forecast alone, and plain steps. Writes
``contact_sheet.png`` (the images side by side), ``run.html`` (the forecast run in detail), ``report.json`` and ``table.md``.
Times are medians of interleaved repeats.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from side_by_side import Drawing, Way, check_steps, draw_all, headings, table

from ddit_ext import Forecast, embedded

PROMPTS = (
    "a pizza and a penguin on blue stripes",
    "a cat and a watermelon on pink dots",
    "a sunflower and a butterfly on plain blue",
    "a rocket on plain purple",
    "a panda on a green gradient",
    "a snowman on red checks",
    "a guitar and a rocket on yellow checks",
    "a fish and an umbrella on orange stripes",
    "a car on blue dots",
    "a penguin and a snowman on plain green",
    "a butterfly and a cat on a red gradient",
    "a watermelon on purple checks",
)
ON_SHEET = 4  # prompts; more would be too small to see on a page


def ways(model: embedded.Embedded, steps: int, target: float) -> list[Way]:
    """The full run, a forecast of half of its calls, and three ways that take about 1 / target of its time."""
    calls = max(2, round(steps / target))
    # At this model's 256 tokens two calls at scale 2 take about as long as a full one. Chosen on PROMPTS themselves.
    first = Forecast(calls=calls + 1, sizes=[2, 2] + [1] * (calls - 1))
    return [
        Way("full run", steps),
        Way("forecast", steps, {"schedule": Forecast(speedup=2)}),
        Way("coarse calls first", steps, {"adapter": model.adapter, "schedule": first}),
        Way(f"forecast, {calls} calls", steps, {"schedule": Forecast(calls=calls)}),
        Way(f"{calls} plain steps", calls),
    ]


def contact_sheet(names: Sequence[str], shown: Sequence[Drawing], path: Path) -> None:
    """A row a prompt, a column a way, two images in each cell."""
    figure, axes = plt.subplots(
        len(shown), len(names), figsize=(12, 1.1 * len(shown) + 0.9), constrained_layout=True, squeeze=False
    )
    for row, drawing in zip(axes, shown, strict=True):
        for axis, pictures in zip(row, drawing.shown, strict=True):
            axis.imshow(np.concatenate(list(pictures[:2]), axis=1), interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
        row[0].set_ylabel(
            "\n".join(_wrapped(drawing.prompt)), fontsize=10, rotation=0, ha="right", va="center"
        )
    for axis, heading in zip(axes[0], names, strict=True):
        axis.set_title(heading, fontsize=12)
    figure.savefig(path, dpi=160)


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo_output"))
    parser.add_argument(
        "--steps", type=int, default=embedded.STEPS, help="denoising steps (default: %(default)s)"
    )
    parser.add_argument("--pictures", type=int, default=4, help="images a prompt (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="how many (default: all)")
    parser.add_argument(
        "--repeats", type=int, default=2, help="timed runs of each image (default: %(default)s)"
    )
    parser.add_argument(
        "--target-speedup", type=float, default=9.0, help="of the last three ways (default: %(default)s)"
    )
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

    used = ways(model, arguments.steps, arguments.target_speedup)
    drawings = draw_all(model.pipeline, draw, used, PROMPTS[: arguments.prompts], arguments.repeats)
    names = headings(model, drawings, used)
    contact_sheet(names, drawings[:ON_SHEET], arguments.out / "contact_sheet.png")
    shown = table(model, drawings, [way.name for way in used])
    (arguments.out / "table.md").write_text(shown + "\n")
    drawings[0].reports[1].html(arguments.out / "run.html")
    reports = {drawing.prompt: drawing.reports[1].to_dict() for drawing in drawings}
    (arguments.out / "report.json").write_text(json.dumps(reports, indent=1) + "\n")
    print(
        f"\n{shown}\n\nImages: {arguments.out / 'contact_sheet.png'}\nOne run: {arguments.out / 'run.html'}"
    )


if __name__ == "__main__":
    main()
