"""Pictures from a real, trained FLUX pipeline, with patch sizes that change from step to step.

    python examples/demo.py --out demo_output

Draws the same prompts and seeds at the fixed patch size, with dynamic patches at a target speed, and as a control at the
fixed size with so many fewer steps. Writes ``contact_sheet.png`` (the pictures side by side, the size of every step
between them), ``run.html`` (one run in detail), ``report.json`` and ``table.md`` (time, steps per size, fidelity).
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
class Trio:
    """One prompt, drawn in three ways from the same noise."""

    prompt: str
    fixed: np.ndarray  # uint8 [n, 64, 64, 3]
    dynamic: np.ndarray
    fewer: np.ndarray
    fixed_seconds: float
    dynamic_seconds: float
    fewer_seconds: float
    report: ddit_ext.Report


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


def draw_trio(
    model: embedded.Embedded, prompt: str, seed: int, pictures: int, steps: int, target: float
) -> Trio:
    pipe = model.pipeline
    fixed, fixed_seconds = draw(pipe, prompt, seed, pictures, steps)
    # A size that is coarse at the end leaves the picture blurred; the budget is kept all the same.
    handle = ddit_ext.patch(pipe, model.adapter, target_speedup=target, protect=(0, steps // 7))
    try:
        dynamic, dynamic_seconds = draw(pipe, prompt, seed, pictures, steps)
    finally:
        handle.unpatch()
    fewer, fewer_seconds = draw(pipe, prompt, seed, pictures, max(1, round(steps / target)))
    return Trio(prompt, fixed, dynamic, fewer, fixed_seconds, dynamic_seconds, fewer_seconds, handle.report())


def psnr(pictures: np.ndarray, reference: np.ndarray) -> float:
    error = ((pictures.astype(float) - reference) ** 2).mean(axis=(1, 2, 3))
    return float((10 * np.log10(255**2 / np.maximum(error, 1e-3))).mean())


def table(model: embedded.Embedded, trios: list[Trio]) -> str:
    lines = [
        "| prompt | fixed p, s | dynamic: speed | steps at p / 2p / 4p | PSNR to fixed p, dB | fewer steps: speed | PSNR | found: "
        "fixed / dynamic / fewer |",
        "|---" * 8 + "|",
    ]
    rows = []
    for trio in trios:
        counts = [trio.report.to_dict()["steps_per_scale"][size] for size in SIZES]
        found = [
            model.score(shown, [trio.prompt] * len(shown))["accuracy"]
            for shown in (trio.fixed, trio.dynamic, trio.fewer)
        ]
        speeds = [trio.fixed_seconds / trio.dynamic_seconds, trio.fixed_seconds / trio.fewer_seconds]
        values = [
            trio.fixed_seconds,
            *speeds,
            psnr(trio.dynamic, trio.fixed),
            psnr(trio.fewer, trio.fixed),
            *found,
        ]
        rows.append(values)
        lines.append(_row(trio.prompt, values, " / ".join(map(str, counts))))
    mean = list(np.mean(rows, axis=0))
    fixed = sum(trio.fixed_seconds for trio in trios)
    mean[1] = fixed / sum(trio.dynamic_seconds for trio in trios)
    mean[2] = fixed / sum(trio.fewer_seconds for trio in trios)
    lines.append(_row("**all**", mean, ""))
    return "\n".join(lines)


def _row(name: str, values: list[float], counts: str) -> str:
    seconds, dynamic, fewer, close, fewer_close, *found = values
    shares = " / ".join(f"{share:.0%}" for share in found)
    return (
        f"| {name} | {seconds:.2f} | {dynamic:.2f}x | {counts} | {close:.1f} | {fewer:.2f}x | {fewer_close:.1f} "
        f"| {shares} |"
    )


def contact_sheet(trios: list[Trio], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    figure, axes = plt.subplots(
        len(trios),
        4,
        figsize=(17, 1.75 * len(trios) + 0.6),
        width_ratios=(4, 3, 4, 4),
        constrained_layout=True,
    )
    for row, trio in zip(axes, trios, strict=True):
        for axis, pictures, name, seconds in (
            (row[0], trio.fixed, "fixed p", trio.fixed_seconds),
            (row[2], trio.dynamic, "dynamic", trio.dynamic_seconds),
            (row[3], trio.fewer, "fixed p, fewer steps", trio.fewer_seconds),
        ):
            axis.imshow(np.concatenate(list(pictures), axis=1), interpolation="nearest")
            axis.set_title(f"{name}, {seconds:.1f} s", fontsize=9)
            axis.axis("off")
        steps = trio.report.to_dict()["steps"]
        row[1].bar(
            [step["index"] for step in steps],
            [step["tokens"] for step in steps],
            width=1.0,
            color=[COLOURS[step["scale"]] for step in steps],
        )
        row[1].set_title(trio.prompt, fontsize=9)
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
    parser.add_argument("--target-speedup", type=float, default=2.0, help="default: %(default)s")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    model = embedded.load("flux")
    draw_trio(model, PROMPTS[0], 0, arguments.pictures, arguments.steps, arguments.target_speedup)  # warm up
    trios = [
        draw_trio(model, prompt, seed, arguments.pictures, arguments.steps, arguments.target_speedup)
        for seed, prompt in enumerate(tqdm(PROMPTS, desc="prompts", unit="prompt"))
    ]
    contact_sheet(trios, arguments.out / "contact_sheet.png")
    shown = table(model, trios)
    (arguments.out / "table.md").write_text(shown + "\n")
    trios[0].report.html(arguments.out / "run.html")
    reports = {trio.prompt: trio.report.to_dict() for trio in trios}
    (arguments.out / "report.json").write_text(json.dumps(reports, indent=1) + "\n")
    print(shown)
    print(f"\nPictures: {arguments.out / 'contact_sheet.png'}")


if __name__ == "__main__":
    main()
