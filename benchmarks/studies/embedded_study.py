"""Which rule should choose the sizes? Rules of equal cost on the embedded FLUX, judged against fixed p.

    python benchmarks/studies/embedded_study.py --work runs/study.jsonl --out benchmarks/studies/results/embedded_study.json

Each prompt and seed is drawn at fixed p, and by each rule at the same cost. A rule with a threshold gets it by bisection
on other prompts, samples deciding alone. The schedules are recorded and cost is counted by what one step of each size
takes (from a measurement that the output names; --measure does it anew), so other load on the machine changes nothing but
the wait. Every batch is written down when it is done, and a run that was stopped goes on from there; batches take all
rules in turn, so any number of them is a paired comparison. Without --batches all are run; --report only counts.
"""

from __future__ import annotations

import argparse
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
import torch
from _planned import coarse_share, linear_ramp, shuffled
from _quality import psnr, ssim
from _replay import Replay, replayed
from _runs import Batch, Method, batches, decode, run
from _study_summary import markdown, summary
from _thresholds import threshold_for
from _timing import write_json

from ddit_ext import embedded
from ddit_ext.policies import PatchScheduler, Policy

SCALES = (1, 2, 4)
STEPS = embedded.STEPS
FULL = "fixed p"
SEARCH_SEED, PROMPT_SEED, NOISE_SEED = 6_000_000, 7_000_000, 8_000_000
COSTS_FROM = Path(__file__).parents[1] / "results" / "embedded_frontier.json"


class Weighted(Policy):
    """A threshold rule whose scores are multiplied by a number a step."""

    def __init__(self, rule: PatchScheduler, weights: list[float]) -> None:
        self.rule, self.weights = rule, weights
        self.mixed = rule.mixed

    def begin(self, total_steps: int) -> None:
        self.rule.begin(total_steps)

    def decide(self, step: int, scores: Any) -> int:
        weight = self.weights[min(step, len(self.weights) - 1)]
        return self.rule.decide(step, [[weight * score for score in row] for row in scores or []])


def signal_rules(sigmas: list[float]) -> dict[str, Any]:
    """Name -> (threshold -> what patch is told), of the rules that follow a signal.

    Differences across a change of size are left out: with them no threshold gives these costs.
    """

    def rule(threshold: float, quantile: float = 0.4, weights: Any = None) -> dict[str, Any]:
        paper = PatchScheduler(list(SCALES), [threshold] * 2, mixed="hold")
        return {
            "schedule": Weighted(paper, weights) if weights else paper,
            "quantile": quantile,
            "batch": "split",
        }

    return {
        "third difference": rule,
        "third, over sigma": partial(rule, weights=[1 / sigma for sigma in sigmas]),
        "third, rho 0.1": partial(rule, quantile=0.1),
        "third, rho 0.8": partial(rule, quantile=0.8),
    }


def taken(report: dict[str, Any], sample: int) -> list[int]:
    """The sizes of one sample's steps."""
    return [step["scales"][sample] if step["scales"] else step["scale"] for step in report["steps"]]


def mean_schedule(runs: list[list[int]], costs: dict[int, float], total: float) -> list[int]:
    """The schedule nearest to the mean of ``runs`` step by step, of (about) the cost ``total``."""
    wanted = [sum(costs[sizes[step]] for sizes in runs) / len(runs) for step in range(len(runs[0]))]
    schedule = [min(SCALES, key=lambda scale: abs(costs[scale] - want)) for want in wanted]
    while True:
        excess = sum(costs[scale] for scale in schedule) - total
        moves = [
            (abs(costs[other] - wanted[step]) - abs(costs[scale] - wanted[step]), step, other)
            for step, scale in enumerate(schedule)
            for other in SCALES
            if abs(excess + costs[other] - costs[scale]) < abs(excess) - 1e-9
        ]
        if not moves:
            return schedule
        _, step, other = min(moves)
        schedule[step] = other


class Study:
    """Runs on the embedded model, and the file that they are written to as they come."""

    def __init__(self, model: Any, work: Path, costs: dict[int, float], target: float, close: float) -> None:
        self.model, self.work, self.costs, self.target, self.close = model, work, costs, target, close
        work.parent.mkdir(parents=True, exist_ok=True)
        self.lines = [json.loads(line) for line in work.read_text().splitlines()] if work.exists() else []

    def write(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        with self.work.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def raw(self) -> str:
        """What was written down, without the classifier's features."""
        small = []
        for line in self.lines:
            rules = {
                name: {k: v for k, v in rows.items() if k != "features"}
                for name, rows in line.get("rules", {}).items()
            }
            small.append(json.dumps(line | ({"rules": rules} if rules else {})) + "\n")
        return "".join(small)

    def known(self, **keys: Any) -> dict[str, Any] | None:
        return next((x for x in self.lines if all(x.get(k) == v for k, v in keys.items())), None)

    def draw(self, batch: Batch, method: Method) -> tuple[torch.Tensor, list[list[int]], dict[str, Any]]:
        """Latents, the sizes of each sample's steps, and the report."""
        latents, _, report = run(self.model.pipeline, batch, method)
        if report is None:
            return latents, [[1] * method.steps] * len(batch.prompts), {}
        return latents, [taken(report, sample) for sample in range(len(batch.prompts))], report

    def full(self, batch: Batch, replay: Replay) -> tuple[torch.Tensor, dict[str, Any]]:
        """Fixed p, with its scores; later runs look up what they share with it."""
        replay.forget()
        replay.recording = True
        never = {"schedule": PatchScheduler(list(SCALES), [0.0, 0.0])}
        latents, _, report = self.draw(batch, Method(FULL, STEPS, never))
        replay.recording = False
        return latents, report

    def patched(self, settings: dict[str, Any]) -> dict[str, Any]:
        return {"adapter": self.model.adapter} | settings

    def methods(self, made: list[Batch], replay: Replay) -> list[Method]:
        """The rules at the target cost; thresholds are searched on ``made``, once."""
        sigmas: list[float] = []
        methods = [Method("fewer steps", max(1, round(STEPS / self.target)))]
        searching = self.known(kind="search") or {}
        for batch in made if not searching else []:
            _, report = self.full(batch, replay)
            sigmas = [step["noise_level"] for step in report["steps"]]
            searching = {"kind": "search", "sigmas": sigmas}
        if sigmas:
            self.write(searching)
        third: list[list[int]] = []
        for name, rule in signal_rules(searching["sigmas"]).items():
            found = self.known(kind="threshold", rule=name, target=self.target)
            if found is None:
                found = self.search(name, rule, made, replay)
                self.write(found)
            third = third or found["scales"]
            methods.append(Method(name, STEPS, self.patched(rule(found["threshold"]))))
        share = coarse_share([self.costs[scale] for scale in SCALES[1:]], self.target)
        planned = linear_ramp(SCALES, share, STEPS)
        mean = mean_schedule(third, self.costs, STEPS / self.target)
        return [
            *methods,
            Method("mean schedule of third", STEPS, self.patched({"schedule": mean})),
            Method("linear ramp", STEPS, self.patched({"schedule": planned})),
            Method("linear ramp, backwards", STEPS, self.patched({"schedule": planned[::-1]})),
            Method("random", STEPS, self.patched({"schedule": shuffled(planned, seed=1)})),
        ]

    def search(self, name: str, rule: Any, made: list[Batch], replay: Replay) -> dict[str, Any]:
        """The threshold at which samples of ``made`` cost what they should on average."""

        def sizes(threshold: float) -> list[list[int]]:
            method = Method(name, STEPS, self.patched(rule(threshold)))
            return [sample for batch in made for sample in self.draw(batch, method)[1]]

        threshold, speed, scales = threshold_for(sizes, self.costs, self.target, (5e-4, 1e-2), 7, self.close)
        print(f"{name}: threshold {threshold:.5f}, {speed:.2f}x", flush=True)
        return {
            "kind": "threshold",
            "rule": name,
            "target": self.target,
            "threshold": threshold,
            "speed": speed,
            "scales": scales,
        }

    def compare(self, number: int, seed: int, batch: Batch, methods: list[Method], replay: Replay) -> None:
        """All rules on one batch of prompts."""
        key = {"kind": "batch", "number": number, "target": self.target}
        if self.known(**key) is not None:
            return
        latents, report = self.full(batch, replay)
        reference = decode(self.model.pipeline, latents)
        scores = [
            [step["scores"][i] if step["scores"] else None for step in report["steps"]] for i in range(8)
        ]
        rules = {FULL: self.judged(reference, reference, batch, [[1] * STEPS] * len(batch.prompts))}
        for method in methods:
            latents, sizes, _ = self.draw(batch, method)
            rules[method.name] = self.judged(decode(self.model.pipeline, latents), reference, batch, sizes)
        traces = [[None if row is None else round(row[1], 6) for row in sample] for sample in scores]
        self.write({**key, "seed": seed, "prompts": batch.prompts, "rules": rules, "scores at 2p": traces})
        shown = ", ".join(f"{name} {sum(rows['psnr']) / 8:.1f}" for name, rows in rules.items())
        print(f"batch {number}: {shown}; {replay.samples}", flush=True)

    def judged(self, shown: Any, reference: Any, batch: Batch, sizes: list[list[int]]) -> dict[str, Any]:
        judged = self.model.judge(shown, batch.prompts)
        return {
            "psnr": [round(float(x), 3) for x in psnr(shown, reference)],
            "ssim": [round(float(x), 4) for x in ssim(shown, reference)],
            "accuracy": [round(float(x), 4) for x in judged.found],
            "features": [[float(f"{x:.5g}") for x in row] for row in judged.features],
            "sizes": ["".join(map(str, sample)) for sample in sizes],
        }


def step_costs(model: Any, measure: bool) -> tuple[dict[int, float], str]:
    """Cost of a step at each size in units of one at p, and where that is from."""
    if measure:
        from embedded_frontier import step_costs as measured

        made = batches(model.pipeline, model.reference(16, seed=SEARCH_SEED)[1], 8, seed=NOISE_SEED)
        seconds, source = measured(model.pipeline, made, model.adapter, 6), "measured by this run"
    else:
        stored = json.loads(COSTS_FROM.read_text())["results"]["plan"]["seconds per step"]
        seconds, source = {int(scale): value for scale, value in stored.items()}, f"results/{COSTS_FROM.name}"
    return {scale: round(seconds[scale] / seconds[1], 4) for scale in SCALES}, source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=64, help="a multiple of 8")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument(
        "--search", type=int, default=8, help="prompts to find thresholds on, a multiple of 8"
    )
    parser.add_argument("--close", type=float, default=0.03, help="a threshold's speed may be this share off")
    parser.add_argument("--target", type=float, default=2.0)
    parser.add_argument("--batches", type=int, default=math.inf, help="stop after so many")
    parser.add_argument("--measure", action="store_true", help="measure what a step of each size costs")
    parser.add_argument("--report", action="store_true", help="no runs: only count what there is")
    parser.add_argument("--work", type=Path, default=Path("runs/study.jsonl"))
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    model = embedded.load("flux")
    costs, source = step_costs(model, arguments.measure)
    study = Study(model, arguments.work, costs, arguments.target, arguments.close)
    if not arguments.report:
        prompts = model.reference(arguments.prompts, seed=PROMPT_SEED)[1]
        searched = batches(
            model.pipeline, model.reference(arguments.search, seed=SEARCH_SEED)[1], 8, seed=NOISE_SEED
        )
        with replayed(model.pipeline.transformer) as replay:
            methods = study.methods(searched, replay)
            number = 0
            for seed in range(arguments.seeds):
                for batch in batches(model.pipeline, prompts, 8, seed=1000 * (seed + 1)):
                    if number < arguments.batches:
                        study.compare(number, seed, batch, methods, replay)
                    number += 1
    if arguments.out:
        counted = summary(study.lines, costs, source, arguments.target, model.real_features())
        write_json(arguments.out, counted)
        arguments.out.with_suffix(".md").write_text(markdown(counted))
        arguments.out.with_suffix(".jsonl").write_text(study.raw())
        print(markdown(counted))


if __name__ == "__main__":
    main()
