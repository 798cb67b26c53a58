"""Speed against fidelity on an embedded model, with the controls that decide: fewer steps and a fixed schedule.

    python benchmarks/embedded_frontier.py --steps 28 --prompts 64 --out benchmarks/results/embedded_frontier.json
    python benchmarks/embedded_frontier.py --model wan --prompts 32 --batch 4 --out benchmarks/results/embedded_wan.json

Per target speed (1.5, 2, 3): dynamic on a budget (`Budget`) with the adapter and training-free, the paper's rule at
the threshold that comes nearest (differences across a change of size left out), fewer fixed steps of equal time, and fixed
schedules of equal time, coarse first or fine at both ends with 2p between. Fidelity is to the fixed-p sample of the same
seed and step count. Besides sizes: forecasts of as many model calls. Times are whole
denoising loops at batch 8, methods taking turns; a speed is the median over batches of the ratio to fixed p on the same batch.
For clips also flicker and motion against the fixed-p clip (ddit_ext/fidelity.py).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from _lines_plot import plot_lines
from _rows import judge, table
from _runs import Method, batches, interleaved_runs, run
from _thresholds import both_ends, coarse_first, threshold_for
from _timing import write_json

from ddit_ext import Budget, Forecast, Threshold, embedded

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

    def rule(threshold: float) -> Threshold:
        return Threshold(threshold, SCALES, mixed="hold")

    for target in targets:
        threshold, expected, _ = threshold_for(
            lambda threshold: scales_of(rule(threshold)), seconds, target, THRESHOLDS
        )
        budget = Budget(target, SCALES, costs=costs)
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
            Method(f"forecast, {target:g}x", steps, {"schedule": Forecast(calls=max(2, fewer))}),
            Method(f"coarse first, adapter, {target:g}x", steps, {"adapter": adapter, "schedule": schedule}),
        ]
        ends = both_ends(steps, seconds, target)
        if ends is not None:
            chosen["targets"][str(target)]["fine at both ends"] = ends
            methods.append(
                Method(
                    f"fine at both ends, adapter, {target:g}x", steps, {"adapter": adapter, "schedule": ends}
                )
            )
    return methods, chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("flux", "wan"), default="flux")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--targets", type=float, nargs="+", default=[1.5, 2.0, 3.0])
    parser.add_argument("--calibration", type=int, default=16, help="prompts to calibrate on")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--adapter", type=Path, default=None, help="default: the embedded one")
    parser.add_argument("--fifty", action="store_true", help="also fixed p at 50 steps")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = embedded.load(arguments.model)
    pipe = model.pipeline
    calibration = batches(
        pipe, model.reference(arguments.calibration, seed=CALIBRATION_SEED)[1], arguments.batch, seed=11
    )
    methods, chosen = plan(
        pipe, arguments.adapter or model.adapter, arguments.steps, arguments.targets, calibration
    )
    print(json.dumps(chosen, indent=1))
    if arguments.fifty:
        methods.insert(1, Method("fixed p, 50 steps", 50))
    prompts = model.reference(arguments.prompts, seed=PROMPT_SEED)[1]
    outcomes = interleaved_runs(pipe, batches(pipe, prompts, arguments.batch, seed=12), methods)
    rows = judge(model, outcomes, methods, prompts, model.real_features())
    print(table(rows))
    if arguments.out:
        write_json(arguments.out, {"plan": chosen, "rows": rows})
        arguments.out.with_suffix(".md").write_text(table(rows) + "\n")
        fast = [
            row | {"line": row["method"].rsplit(",", 1)[0]} for row in rows if row["speed"]["mean"] > 1.05
        ]
        plot_lines(fast, arguments.out.with_suffix(".png"), ("psnr", "accuracy", "frechet"))


if __name__ == "__main__":
    main()
