"""Presets on prompts they were not made with: the speed asked for, the speed reached, and what it cost in fidelity.

    python benchmarks/embedded_calibrated.py --out benchmarks/results/embedded_calibrated.json
    python benchmarks/embedded_calibrated.py --model wan --out benchmarks/results/embedded_calibrated_wan.json
    python benchmarks/embedded_calibrated.py --by-found --scales 1 2 --calibration 32 --targets 6 8 --out benchmarks/results/embedded_calibrated_found.json

Calibrates an embedded model to each target on some prompts (FLUX at batch 8, Wan at 4). Then, on others, the full run,
each preset and fewer steps of equal time or just more take turns, with --by-itself also a forecast and a budget
of larger patches that no calibration chose. Times are whole denoising loops; a speed is the median over batches of the ratio to the full runs of the
same batch just before and after, unpatched. PSNR and SSIM are to the full sample of the same noise. At the end: whether each preset is within 10 % of its target, and whether presets
for more speed are faster. A target that can't be reached is left out, with the reason.
"""

from __future__ import annotations

import argparse
import math
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

from _rows import judge, table
from _runs import Method, batches, interleaved_runs
from _timing import write_json

import ddit_ext
from ddit_ext import Budget, embedded

CALIBRATION_SEED, PROMPT_SEED = 6_000_000, 7_000_000
CLOSE = 0.1
"""A speed counts as the target within this share of it."""

BATCH = {"flux": 8, "wan": 4}


def calibrated(
    model: embedded.Embedded,
    targets: list[float],
    prompts: list[str],
    batch: int,
    steps: int,
    scales: list[int] | None = None,
    by_found: bool = False,
) -> tuple[dict[float, ddit_ext.Preset], dict[float, str]]:
    """{target: preset}, and of the targets that can't be reached, or were not, the reasons."""
    targets, missing = sorted(targets), {}

    def found(pictures, references, asked):
        return model.judge(pictures, asked).found

    while targets:
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                presets = ddit_ext.calibrate(
                    model.pipeline,
                    prompts,
                    adapter=model.adapter,
                    target_speedup=targets,
                    batch_size=batch,
                    num_inference_steps=steps,
                    scales=scales,
                    measure=found if by_found else None,
                )
            texts = [str(warning.message).removeprefix("ddit_ext: ") for warning in caught]
            for target in [target for target in targets if target not in presets]:
                missing[target] = next(
                    text for text in texts if text.startswith(f"target_speedup={target:g} ")
                )
            return presets, missing
        except ValueError as error:
            if not str(error).startswith("target_speedup="):
                raise
            missing[targets.pop()] = str(error)
    return {}, missing


def methods_for(
    model: embedded.Embedded, presets: dict[float, ddit_ext.Preset], steps: int, by_itself: bool
) -> list[Method]:
    """The full run, and two or three ways to each target."""
    methods = [Method("full run", steps)]
    for target, preset in presets.items():
        methods += [
            Method(preset_name(target), preset.steps, {"adapter": model.adapter, "preset": preset}),
            Method(f"fewer steps, {target:g}x", as_long(preset, steps)),
        ]
        if by_itself:
            methods.append(Method(f"target_speedup, {target:g}x", steps, {"target_speedup": target}))
            own = {"adapter": model.adapter, "schedule": Budget(target)}
            methods.append(Method(f"budget, {target:g}x", steps, own))
    return methods


def as_long(preset: ddit_ext.Preset, steps: int) -> int:
    """How many plain steps take as long as a preset's run, or just longer."""
    scales = preset.strategy.computed_scales(preset.run_steps)
    whole = scales is not None and set(scales) == {1}
    return len(scales) if whole else math.ceil(steps / preset.speed)


def preset_file(out: Path, target: float) -> Path:
    return out.with_name(f"{out.stem}_{target:g}x.preset.json")


def preset_name(target: float) -> str:
    return f"preset, {target:g}x"


def verdict(rows: list[dict[str, Any]], targets: list[float]) -> dict[str, Any]:
    """Whether each preset's measured speed is near its target, and whether more was faster."""
    speeds = {
        target: next(row["speed"]["mean"] for row in rows if row["method"] == preset_name(target))
        for target in sorted(targets)
    }
    return {
        "speeds": {f"{target:g}": speed for target, speed in speeds.items()},
        "within": {f"{target:g}": abs(speed / target - 1) <= CLOSE for target, speed in speeds.items()},
        "monotone": all(a < b for a, b in pairwise(speeds.values())),
    }


def told(found: dict[str, Any], missing: dict[float, str]) -> str:
    """The verdict in words."""
    lines = [
        f"{target}x: {speed:.2f}x, {'within' if found['within'][target] else 'NOT within'} {CLOSE:.0%}"
        for target, speed in found["speeds"].items()
    ]
    lines += [f"{target:g}x: left out. {reason}" for target, reason in missing.items()]
    return "\n".join([*lines, f"speeds monotone: {'yes' if found['monotone'] else 'NO'}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(BATCH), default="flux")
    parser.add_argument("--steps", type=int, default=embedded.STEPS, help="of the full run")
    parser.add_argument("--targets", type=float, nargs="+", default=[1.5, 2.0, 2.5, 3.0])
    parser.add_argument(
        "--scales",
        type=int,
        nargs="+",
        default=None,
        help="1: forecasts and fewer steps alone; default: 1 2 4",
    )
    parser.add_argument("--batch", type=int, default=None, help="default: 8 for flux, 4 for wan")
    parser.add_argument(
        "--calibration", type=int, default=None, help="prompts to calibrate on; default: a batch"
    )
    parser.add_argument(
        "--prompts", type=int, default=None, help="prompts to compare on; default: four batches"
    )
    parser.add_argument(
        "--by-itself", action="store_true", help="also runs with target_speedup, without a preset"
    )
    parser.add_argument(
        "--by-found", action="store_true", help="choose by what the classifier finds of a prompt, not by PSNR"
    )
    parser.add_argument(
        "--made", action="store_true", help="compare the presets that lie beside --out, calibrate none"
    )
    parser.add_argument(
        "--out", type=Path, default=None, help="JSON; presets and their pages are written beside it"
    )
    arguments = parser.parse_args()
    if arguments.made and not arguments.out:
        parser.error("--made needs --out, beside which the presets lie")
    model = embedded.load(arguments.model)
    batch = arguments.batch or BATCH[arguments.model]
    seen = model.reference(arguments.calibration or batch, seed=CALIBRATION_SEED)[1]
    missing: dict[float, str] = {}
    if arguments.made:
        files = {target: preset_file(arguments.out, target) for target in sorted(arguments.targets)}
        presets = {target: ddit_ext.Preset.load(path) for target, path in files.items()}
    else:
        presets, missing = calibrated(
            model, arguments.targets, seen, batch, arguments.steps, arguments.scales, arguments.by_found
        )
    for target, preset in presets.items():
        print(f"{preset}\n", flush=True)
        if arguments.out and not arguments.made:
            path = preset.save(preset_file(arguments.out, target))
            preset.html(path.with_name(path.name.replace(".preset.json", ".html")))
    methods = methods_for(model, presets, arguments.steps, arguments.by_itself)
    prompts = model.reference(arguments.prompts or 4 * batch, seed=PROMPT_SEED)[1]
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="ddit_ext: the preset is for"
        )  # the short runs that warm up
        compared = batches(model.pipeline, prompts, batch, seed=13)
        outcomes = interleaved_runs(model.pipeline, compared, methods, beside=methods[0])
    rows = judge(model, outcomes, methods, prompts)
    found = verdict(rows, list(presets))
    text = f"{table(rows)}\n\n{told(found, missing)}"
    print(text)
    if arguments.out:
        described = {f"{target:g}": preset.to_dict() for target, preset in presets.items()}
        left_out = {f"{target:g}": reason for target, reason in missing.items()}
        write_json(
            arguments.out, {"presets": described, "rows": rows, "verdict": found, "left out": left_out}
        )
        arguments.out.with_suffix(".md").write_text(text + "\n")


if __name__ == "__main__":
    main()
