"""Pictures from a real, trained FLUX pipeline, with patch sizes that change from step to step.

    python examples/demo.py --out demo_output

Draws the same prompts and seeds twice, at the fixed patch size and with dynamic patches, and writes
``contact_sheet.png`` (the pictures side by side, the size of every step between them), ``report.json`` and
``table.md`` (time, steps per size, fidelity).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import ddit_ext
from ddit_ext import embedded

PROMPTS = (
    "a pizza and a penguin on blue stripes",
    "a rocket on plain purple",
    "a panda on a green gradient",
    "a cat and a watermelon on pink dots",
    "a snowman on red checks",
    "a sunflower and a butterfly on plain blue",
)
SIZES = (1, 2, 4)
COLOURS = {1: "#3b4cc0", 2: "#8db0fe", 4: "#f2b08a"}


@dataclass
class Pair:
    """One prompt, drawn both ways from the same noise."""

    prompt: str
    fixed: np.ndarray  # uint8 [n, 64, 64, 3]
    dynamic: np.ndarray
    fixed_seconds: float
    dynamic_seconds: float
    report: dict[str, Any]


def draw(pipe: Any, prompt: str, seed: int, pictures: int, steps: int) -> tuple[np.ndarray, float]:
    started = time.perf_counter()
    images = pipe(
        prompt,
        num_images_per_prompt=pictures,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    ).images
    return np.uint8(np.rint(images * 255)), time.perf_counter() - started


def draw_pair(
    model: embedded.Embedded, prompt: str, seed: int, pictures: int, steps: int, threshold: float
) -> Pair:
    fixed, fixed_seconds = draw(model.pipeline, prompt, seed, pictures, steps)
    handle = ddit_ext.patch(model.pipeline, model.adapter, threshold=threshold)
    try:
        dynamic, dynamic_seconds = draw(model.pipeline, prompt, seed, pictures, steps)
    finally:
        handle.unpatch()
    return Pair(prompt, fixed, dynamic, fixed_seconds, dynamic_seconds, handle.report().to_dict())


def table(model: embedded.Embedded, pairs: list[Pair]) -> str:
    lines = [
        "| prompt | fixed p, s | dynamic, s | speed | steps at p / 2p / 4p | PSNR to fixed p, dB | found: fixed | found: dynamic |",
        "|---" * 8 + "|",
    ]
    rows = []
    for pair in pairs:
        error = ((pair.fixed.astype(float) - pair.dynamic) ** 2).mean(axis=(1, 2, 3))
        counts = [pair.report["steps_per_scale"][size] for size in SIZES]
        rows.append(
            [
                pair.fixed_seconds,
                pair.dynamic_seconds,
                pair.fixed_seconds / pair.dynamic_seconds,
                float((10 * np.log10(255**2 / np.maximum(error, 1e-3))).mean()),
                model.score(pair.fixed, [pair.prompt] * len(pair.fixed))["accuracy"],
                model.score(pair.dynamic, [pair.prompt] * len(pair.dynamic))["accuracy"],
            ]
        )
        lines.append(_row(pair.prompt, rows[-1], " / ".join(map(str, counts))))
    mean = list(np.mean(rows, axis=0))
    mean[2] = sum(pair.fixed_seconds for pair in pairs) / sum(pair.dynamic_seconds for pair in pairs)
    lines.append(_row("**all**", mean, ""))
    return "\n".join(lines)


def _row(name: str, values: list[float], counts: str) -> str:
    fixed, dynamic, speed, psnr, before, after = values
    return f"| {name} | {fixed:.2f} | {dynamic:.2f} | {speed:.2f}x | {counts} | {psnr:.1f} | {before:.0%} | {after:.0%} |"


def contact_sheet(pairs: list[Pair], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    figure, axes = plt.subplots(
        len(pairs), 3, figsize=(13, 1.75 * len(pairs) + 0.6), width_ratios=(4, 3, 4), constrained_layout=True
    )
    for row, pair in zip(axes, pairs, strict=True):
        for axis, pictures, name, seconds in (
            (row[0], pair.fixed, "fixed p", pair.fixed_seconds),
            (row[2], pair.dynamic, "dynamic", pair.dynamic_seconds),
        ):
            axis.imshow(np.concatenate(list(pictures), axis=1), interpolation="nearest")
            axis.set_title(f"{name}, {seconds:.1f} s", fontsize=9)
            axis.axis("off")
        steps = pair.report["steps"]
        row[1].bar(
            [step["index"] for step in steps],
            [step["tokens"] for step in steps],
            width=1.0,
            color=[COLOURS[step["scale"]] for step in steps],
        )
        row[1].set_title(pair.prompt, fontsize=9)
        row[1].set_ylabel("tokens", fontsize=8)
        row[1].tick_params(labelsize=7)
        row[1].spines[["top", "right"]].set_visible(False)
    handles = [
        Patch(color=COLOURS[size], label="patch p" if size == 1 else f"patch {size}p") for size in SIZES
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo_output"))
    parser.add_argument(
        "--steps", type=int, default=embedded.STEPS, help="denoising steps (default: %(default)s)"
    )
    parser.add_argument("--pictures", type=int, default=4, help="pictures a prompt (default: %(default)s)")
    parser.add_argument("--threshold", type=float, default=embedded.THRESHOLD, help="default: %(default)s")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    model = embedded.load("flux")
    draw_pair(model, PROMPTS[0], 0, arguments.pictures, 5, arguments.threshold)  # warm up
    pairs = [
        draw_pair(model, prompt, seed, arguments.pictures, arguments.steps, arguments.threshold)
        for seed, prompt in enumerate(tqdm(PROMPTS, desc="prompts", unit="prompt"))
    ]
    contact_sheet(pairs, arguments.out / "contact_sheet.png")
    shown = table(model, pairs)
    (arguments.out / "table.md").write_text(shown + "\n")
    reports = {pair.prompt: pair.report for pair in pairs}
    (arguments.out / "report.json").write_text(json.dumps(reports, indent=1) + "\n")
    print(shown)
    print(f"\nPictures: {arguments.out / 'contact_sheet.png'}")


if __name__ == "__main__":
    main()
