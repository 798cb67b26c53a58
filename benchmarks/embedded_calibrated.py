"""Presets on prompts they were not made with: the speed asked for, the speed reached, and what it cost in fidelity.

    python benchmarks/embedded_calibrated.py --prompts 64 --out benchmarks/results/embedded_calibrated.json

Calibrates the embedded FLUX at batch 8 to each target on some prompts. Then, on others, the full run, each preset, a
run with `target_speedup` alone and fewer steps of equal time take turns. Times are whole denoising loops; a speed is
the median over batches of the ratio to the full run on the same batch. PSNR and SSIM are to the full sample of the same
noise.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

from _rows import judge, table
from _runs import Method, batches, interleaved_runs
from _timing import write_json

import ddit_ext
from ddit_ext import embedded

CALIBRATION_SEED, PROMPT_SEED = 6_000_000, 7_000_000


def methods_for(model: embedded.Embedded, presets: dict[float, ddit_ext.Preset], steps: int) -> list[Method]:
    """The full run, and three ways to each target."""
    methods = [Method("full run", steps)]
    for target, preset in presets.items():
        fewer = max(1, round(steps / preset.speed))
        methods += [
            Method(f"preset, {target:g}x", preset.steps, {"adapter": model.adapter, "preset": preset}),
            Method(
                f"target_speedup, {target:g}x", steps, {"adapter": model.adapter, "target_speedup": target}
            ),
            Method(f"fewer steps, {target:g}x", fewer),
        ]
    return methods


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=embedded.STEPS, help="of the full run")
    parser.add_argument("--targets", type=float, nargs="+", default=[1.5, 2.0, 2.5, 3.0])
    parser.add_argument("--calibration", type=int, default=16, help="prompts to calibrate on")
    parser.add_argument("--prompts", type=int, default=64, help="prompts to compare on")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument(
        "--out", type=Path, default=None, help="JSON; presets and their pages are written beside it"
    )
    arguments = parser.parse_args()
    model = embedded.load("flux")
    seen = model.reference(arguments.calibration, seed=CALIBRATION_SEED)[1]
    presets = {}
    for target in arguments.targets:
        preset = ddit_ext.calibrate(
            model.pipeline,
            seen,
            adapter=model.adapter,
            target_speedup=target,
            batch_size=arguments.batch,
            num_inference_steps=arguments.steps,
        )
        print(f"{preset}\n")
        presets[target] = preset
        if arguments.out:
            name = f"{arguments.out.stem}_{target:g}x"
            preset.save(arguments.out.with_name(f"{name}.preset.json"))
            preset.html(arguments.out.with_name(f"{name}.html"))
    methods = methods_for(model, presets, arguments.steps)
    prompts = model.reference(arguments.prompts, seed=PROMPT_SEED)[1]
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="ddit_ext: the preset is for"
        )  # the short runs that warm up
        outcomes = interleaved_runs(
            model.pipeline, batches(model.pipeline, prompts, arguments.batch, seed=13), methods
        )
    rows = judge(model, outcomes, methods, prompts)
    print(table(rows))
    if arguments.out:
        described = {f"{target:g}": preset.to_dict() for target, preset in presets.items()}
        write_json(arguments.out, {"presets": described, "rows": rows})
        arguments.out.with_suffix(".md").write_text(table(rows) + "\n")


if __name__ == "__main__":
    main()
