"""Speed against fidelity on an embedded model, with the controls that decide: fewer steps and a fixed schedule.

    python benchmarks/embedded_frontier.py --steps 28 --prompts 64 --out benchmarks/results/embedded_frontier.json
    python benchmarks/embedded_frontier.py --model wan --prompts 32 --batch 4 --out benchmarks/results/embedded_wan.json

Per target speed (1.5, 2, 3): dynamic on a budget (`BudgetPolicy`) with the adapter and training-free, the paper's rule at
the threshold that comes nearest (differences across a change of size left out), fewer fixed steps of equal time, and a
fixed coarse-first schedule of equal time. Fidelity is to the fixed-p sample of the same seed and step count. Times
are whole denoising loops at batch 8, methods taking turns; a speed is the median over batches of the ratio to
fixed p on the same batch. For clips also flicker and motion against the fixed-p clip (ddit_ext/fidelity.py).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from _quality import bootstrap, frechet_interval, psnr, ssim, with_interval
from _runs import Method, Outcome, batches, decode, interleaved_runs, run
from _thresholds import coarse_first, threshold_for
from _timing import write_json

from ddit_ext import embedded
from ddit_ext.fidelity import temporal_fidelity
from ddit_ext.policies import BudgetPolicy, PatchScheduler

SCALES = (1, 2, 4)
THRESHOLDS = (3e-4, 1.0)  # from "never coarse" to "always" on the embedded model
CALIBRATION_SEED, PROMPT_SEED = 4_000_000, 5_000_000


def step_costs(pipe, made, adapter, steps: int) -> dict[int, float]:
    """Seconds of one step at each size, from short interleaved runs (decision and adapter included)."""
    methods = [Method(str(scale), steps, {"adapter": adapter, "schedule": scale}) for scale in SCALES]
    outcomes = interleaved_runs(pipe, made, methods)
    return {scale: float(np.median(outcomes[str(scale)].seconds)) / steps for scale in SCALES}


def plan(pipe, adapter, steps: int, targets: list[float], calibration) -> tuple[list[Method], dict]:
    """The methods to compare, and how they were chosen; calibrated on prompts that are not compared on."""
    seconds = step_costs(pipe, calibration, adapter, 6)
    costs = [seconds[scale] / seconds[1] for scale in SCALES[1:]]
    methods = [Method("fixed p", steps)]
    chosen: dict = {"seconds per step": seconds, "targets": {}}

    def scales_of(policy) -> list[list[int]]:
        method = Method("calibration", steps, {"adapter": adapter, "schedule": policy})
        reports = [run(pipe, batch, method)[2] for batch in calibration]
        return [[step["scale"] for step in report["steps"]] for report in reports]

    def rule(threshold: float) -> PatchScheduler:
        return PatchScheduler(list(SCALES), [threshold] * (len(SCALES) - 1), mixed="hold")

    for target in targets:
        threshold, expected, _ = threshold_for(
            lambda threshold: scales_of(rule(threshold)), seconds, target, THRESHOLDS
        )
        budget = BudgetPolicy(list(SCALES), costs, target, mixed="hold")
        taken = [scale for sizes in scales_of(budget) for scale in sizes]
        mix = {scale: taken.count(scale) / len(taken) for scale in SCALES}
        schedule = coarse_first(steps, seconds, target, mix)
        fewer = max(1, round(steps / target))
        chosen["targets"][str(target)] = {
            "threshold": threshold,
            "expected speed of the threshold": expected,
            "share of steps on a budget": mix,
            "fixed schedule": schedule,
            "fewer steps": fewer,
        }
        methods += [
            Method(f"dynamic, adapter, {target:g}x", steps, {"adapter": adapter, "schedule": budget}),
            Method(f"dynamic, training-free, {target:g}x", steps, {"schedule": budget}),
            Method(
                f"threshold, adapter, {target:g}x", steps, {"adapter": adapter, "schedule": rule(threshold)}
            ),
            Method(f"fewer steps, {target:g}x", fewer),
            Method(f"coarse first, adapter, {target:g}x", steps, {"adapter": adapter, "schedule": schedule}),
        ]
    return methods, chosen


def judge(model, outcomes: dict[str, Outcome], methods: list[Method], prompts: list[str]) -> list[dict]:
    real = model.real_features()
    base = outcomes["fixed p"]
    reference = decode(model.pipeline, torch.cat(base.latents))
    rows = []
    for method in methods:
        outcome = outcomes[method.name]
        shown = decode(model.pipeline, torch.cat(outcome.latents))
        judged = model.judge(shown, prompts)
        ratios = np.array(base.seconds) / np.array(outcome.seconds)
        low, high = bootstrap(lambda i, r=ratios: float(np.median(r[i])), len(ratios))
        temporal = {}
        if shown.ndim == 5:
            compared = temporal_fidelity(shown, reference)
            temporal = {
                "flicker": with_interval(compared.flicker),
                "motion": with_interval(np.nan_to_num(compared.motion, nan=1.0)),
            }
        sizes = [step["scale"] for report in outcome.reports for step in report["steps"]]
        rows.append(
            {
                "method": method.name,
                "steps": method.steps,
                "speed": {"mean": float(np.median(ratios)), "low": low, "high": high},
                "psnr": with_interval(psnr(shown, reference)),
                "ssim": with_interval(ssim(shown, reference)),
                "accuracy": with_interval(judged.found),
                "frechet": frechet_interval(judged.features, real),
                **temporal,
                "steps per size": {s: sizes.count(s) / len(outcome.reports) for s in SCALES}
                if sizes
                else None,
            }
        )
    return rows


def table(rows: list[dict]) -> str:
    def cell(value: dict, digits: int) -> str:
        return f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"

    measures = {"speed": 2, "psnr": 1, "ssim": 3, "accuracy": 3, "frechet": 1, "flicker": 2, "motion": 2}
    measures = {name: digits for name, digits in measures.items() if name in rows[0]}
    names = {"psnr": "PSNR dB", "ssim": "SSIM", "frechet": "Fréchet"}
    heads = ["method", "steps", *(names.get(name, name) for name in measures), "steps at p/2p/4p"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        sizes = row["steps per size"]
        shown = " / ".join(f"{sizes[scale]:.1f}" for scale in SCALES) if sizes else f"{row['steps']} / 0 / 0"
        cells = [cell(row[name], digits) for name, digits in measures.items()]
        lines.append(f"| {' | '.join([row['method'], str(row['steps']), *cells, shown])} |")
    return "\n".join(lines)


def plot(rows: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4), constrained_layout=True)
    kinds = sorted({row["method"].rsplit(",", 1)[0] for row in rows if row["speed"]["mean"] > 1.05})
    for axis, measure in zip(axes, ("psnr", "accuracy", "frechet"), strict=True):
        for kind in kinds:
            points = [
                row for row in rows if row["method"].rsplit(",", 1)[0] == kind and row["speed"]["mean"] > 1.05
            ]
            points.sort(key=lambda row: row["speed"]["mean"])
            values = [row[measure]["mean"] for row in points]
            errors = [
                [v - row[measure]["low"] for v, row in zip(values, points, strict=True)],
                [row[measure]["high"] - v for v, row in zip(values, points, strict=True)],
            ]
            axis.errorbar(
                [row["speed"]["mean"] for row in points],
                values,
                np.abs(errors),
                marker="o",
                label=kind,
                capsize=3,
            )
        axis.set_xlabel("measured speed, times fixed p")
        axis.set_ylabel(
            {"psnr": "PSNR to fixed p, dB", "accuracy": "prompt accuracy", "frechet": "Fréchet distance"}[
                measure
            ]
        )
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("flux", "wan"), default="flux")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--targets", type=float, nargs="+", default=[1.5, 2.0, 3.0])
    parser.add_argument("--calibration", type=int, default=16, help="prompts to calibrate on")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--fifty", action="store_true", help="also fixed p at 50 steps")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = embedded.load(arguments.model)
    pipe = model.pipeline
    calibration = batches(
        pipe, model.reference(arguments.calibration, seed=CALIBRATION_SEED)[1], arguments.batch, seed=11
    )
    methods, chosen = plan(pipe, model.adapter, arguments.steps, arguments.targets, calibration)
    print(json.dumps(chosen, indent=1))
    if arguments.fifty:
        methods.insert(1, Method("fixed p, 50 steps", 50))
    prompts = model.reference(arguments.prompts, seed=PROMPT_SEED)[1]
    outcomes = interleaved_runs(pipe, batches(pipe, prompts, arguments.batch, seed=12), methods)
    rows = judge(model, outcomes, methods, prompts)
    print(table(rows))
    if arguments.out:
        write_json(arguments.out, {"plan": chosen, "rows": rows})
        arguments.out.with_suffix(".md").write_text(table(rows) + "\n")
        plot(rows, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
