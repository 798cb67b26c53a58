"""What deciding costs: history, scores and decision of a step, over the time of a coarse step.

    python benchmarks/studies/cost_of_deciding.py --out benchmarks/studies/results/cost_of_deciding.json

Two ways, in the same runs. By a clock around the parts of one patched pipeline: what a step spends in the sampler watch's
history, in the scores and in the policy, over the seconds of the steps of a fixed schedule. And as a control by the whole:
steps of a policy that asks for scores and answers 2 whatever they are, over the same steps of `schedule=2`, which has no
history and no scores; the same with 4. Fixed and asked runs take turns. Steps before the first scores are not counted.
Ratios are of the same round, given as the median over rounds with its 95 % interval. Rounds that lost time to other machines
on the host are made again, up to as many as count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
import torch
from _runs import Batch, batches
from _timing import Taken, median_interval, write_json

import ddit_ext
from ddit_ext import embedded
from ddit_ext.runtime.run import RunState

SCORE, DECIDE = RunState._score, RunState._decide

CASES = (("flux", 1), ("flux", 8), ("wan", 4))
SIZES = (2, 4)
SILENT = 5
"""Steps that are not counted: three have no scores, and the two after them warm up."""

PARTS = ("history", "scores", "decision")
PROMPT_SEED = 7_000_000


class Always:
    """A policy that has scores made and answers the same whatever they are."""

    def __init__(self, size: int) -> None:
        self.size = size

    def begin(self, total_steps: int) -> None:
        """Nothing to do."""

    def decide(self, step: int, scores: Any) -> int:
        return self.size


class Stopwatch:
    """Seconds spent in some functions of one handle's parts, by part: a list each, one entry a step."""

    def __init__(self, handle: ddit_ext.runtime.Handle) -> None:
        watch = handle._hook.watch
        self.steps: dict[str, list[float]] = {part: [] for part in PARTS}
        watch._follow = self._timed(watch._follow, "history")
        RunState._score = self._timed(SCORE, "scores")
        RunState._decide = self._timed(DECIDE, "decision")

    def _timed(self, call: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*args)
            finally:
                self.steps[part].append(time.perf_counter() - started)

        return timed


def seconds_of(
    pipe: Any, batch: Batch, adapter: Path, schedule: Any, steps: int
) -> tuple[float, dict[str, float]]:
    """Mean seconds of the counted steps of a run, and of each part within them where it is asked for scores."""
    asked = not isinstance(schedule, int)
    handle = ddit_ext.patch(pipe, adapter, schedule=schedule)
    try:
        watch = Stopwatch(handle) if asked else None
        inputs = batch.inputs | {"latents": batch.inputs["latents"].clone()}
        pipe(**inputs, num_inference_steps=steps, output_type="latent")
        report = handle.report().to_dict()["steps"]
    finally:
        handle.unpatch()
    if any((step["scores"] is not None) != asked for step in report[SILENT:]):
        raise RuntimeError(f"schedule={schedule}: scores were{' not' * asked} made in the counted steps")
    parts = {part: statistics.mean(taken[SILENT:]) for part, taken in watch.steps.items()} if watch else {}
    return statistics.mean(step["seconds"] for step in report[SILENT:]), parts


def measure(name: str, size: int, steps: int, budget: float, fewest: int) -> dict[str, Any]:
    """One model at one batch size, for about `budget` seconds."""
    model = embedded.load(name)
    pipe = model.pipeline
    (batch,) = batches(pipe, model.reference(size, seed=PROMPT_SEED)[1], size, seed=1)
    rounds: list[dict[str, float]] = []
    lost = 0
    ends = None
    while ends is None or len(rounds) < fewest or time.perf_counter() < ends:
        row: dict[str, float] = {}
        taken_by_others = Taken()
        for scale in SIZES if len(rounds) % 2 else SIZES[::-1]:
            ways = {"fixed": scale, "asked": Always(scale)}
            for way, schedule in ways.items() if len(rounds) % 4 < 2 else reversed(ways.items()):
                taken, parts = seconds_of(pipe, batch, model.adapter, schedule, steps)
                row[f"{way} {scale}"] = taken
                row |= {f"{part} {scale}": seconds for part, seconds in parts.items()}
        if ends is None:
            ends = time.perf_counter() + budget  # the first round warms up
        elif taken_by_others.share() > Taken.LIMIT and lost <= len(rounds):
            lost += 1
        else:
            rounds.append(row)
    return {"model": name, "batch": size, "rounds": len(rounds), "rounds lost": lost} | {
        f"{scale}p": summary(rounds, scale) for scale in SIZES
    }


def summary(rounds: list[dict[str, float]], scale: int) -> dict[str, Any]:
    """Medians over rounds, with their intervals."""

    def median(values: list[float]) -> dict[str, float]:
        low, high = median_interval(values)
        return {"median": statistics.median(values), "low": low, "high": high}

    step = [row[f"fixed {scale}"] for row in rounds]
    deciding = [sum(row[f"{part} {scale}"] for part in PARTS) for row in rounds]
    return {
        "step_s": median(step),
        **{f"{part}_s": median([row[f"{part} {scale}"] for row in rounds]) for part in PARTS},
        "share": median([cost / whole for cost, whole in zip(deciding, step, strict=True)]),
        "control": median([row[f"asked {scale}"] / row[f"fixed {scale}"] - 1 for row in rounds]),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Every model, batch and size in Markdown."""
    heads = ["model", "batch", "step at", "a step, ms", *(f"{part}, µs" for part in PARTS)]
    heads += ["of a step, %", "control, %", "at most 1 %"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        for scale in SIZES:
            case = row[f"{scale}p"]
            cells = [row["model"], str(row["batch"]), f"{scale}p", f"{case['step_s']['median'] * 1e3:.2f}"]
            cells += [f"{case[f'{part}_s']['median'] * 1e6:.0f}" for part in PARTS]
            for name in ("share", "control"):
                shown = (f"{case[name][bound] * 100:.2f}" for bound in ("median", "low", "high"))
                cells.append("{} [{}, {}]".format(*shown))
            cells.append("yes" if case["share"]["high"] <= 0.01 else "no")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=25, help="for each model and batch")
    parser.add_argument("--rounds", type=int, default=3, help="at least so many, whatever time they take")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--cases", nargs="+", default=[f"{name}:{size}" for name, size in CASES])
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    if arguments.steps <= SILENT:
        parser.error(f"--steps must be above {SILENT}, got {arguments.steps}")
    torch.manual_seed(0)
    rows = []
    for case in arguments.cases:
        name, size = case.split(":")
        rows.append(measure(name, int(size), arguments.steps, arguments.seconds, arguments.rounds))
    print(table(rows))
    if arguments.out:
        write_json(arguments.out, rows)
        arguments.out.with_suffix(".md").write_text(table(rows) + "\n")


if __name__ == "__main__":
    main()
