"""MeanCache's places and spans for the embedded FLUX, as its authors choose them: from recorded runs of all steps.

    python benchmarks/studies/meancache_places.py --out benchmarks/studies/results/meancache_places.json

Nodes are steps; an edge costs how far the velocity that the rule forecasts over it, with the best span K of 1 to 6, is from
the average one on the recorded run (mean of absolute differences), to the power gamma ("peak-suppressed"). The path
of least cost with so many nodes is the plan. gamma is not in the authors' code: the plan of each gamma is run on
these prompts, and the one closest to the run of all steps counts. frontier.py compares it on others.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
import torch
from _quality import psnr
from _runs import Method, batches, decode, run
from _solvers import Seen, Solver, meancache
from _timing import write_json
from forecast_variants import Watched

from ddit_ext import embedded

STEPS, SPANS, GAMMAS = 28, range(1, 7), (1, 2, 4)


def edges(path: torch.Tensor, levels: list[float]) -> dict[tuple[int, int], tuple[float, int]]:
    """(step, end) -> cost and span. path: samples [level, prompt, ...] of runs of all steps."""
    outputs = path.diff(dim=0) / torch.tensor(levels).diff().view(-1, *[1] * (path.ndim - 1))
    found = {}
    for i in range(STEPS):
        for e in range(i + 1, STEPS + 1):
            costs = []
            for span in SPANS:
                rule = meancache({i: span})
                steps = [Seen(k, levels[k], outputs[k], k == i) for k in range(i + 1)]
                while len(steps) < e:
                    at = len(steps)
                    steps.append(Seen(at, levels[at], rule(steps, levels), False))
                moved = sum((levels[each.step + 1] - each.sigma) * each.output for each in steps[i:])
                off = (moved - (path[e] - path[i])) / (levels[e] - levels[i])
                costs.append((float(off.abs().mean()), span))
            found[i, e] = min(costs)
    return found


def plan(costs: dict[tuple[int, int], tuple[float, int]], calls: int, gamma: float) -> dict[int, int]:
    """The steps that call the model on the cheapest path, each with its span."""
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [0])}
    for left in range(calls - 1, -1, -1):
        new: dict[int, tuple[float, list[int]]] = {}
        for i, (cost, places) in best.items():
            for e in (STEPS,) if left == 0 else range(i + 1, STEPS - left + 1):
                here = cost + costs[i, e][0] ** gamma
                if here < new.get(e, (math.inf,))[0]:
                    new[e] = (here, [*places, e])
        best = new
    places = best[STEPS][1]
    return {i: costs[i, e][1] for i, e in zip(places, places[1:], strict=False)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--calls", type=int, nargs="+", default=[15, 11, 9, 7])
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipe = (model := embedded.load("flux")).pipeline
    pipe.set_progress_bar_config(disable=True)
    made = batches(pipe, model.reference(arguments.prompts, seed=41)[1], 8, seed=41)
    paths = []
    for batch in made:
        watched = Watched(pipe.scheduler, 1, "Euler")
        run(pipe, batch, Method("all", STEPS, scheduler=lambda _, w=watched: w))
        paths.append(torch.stack(watched.path))
    path = torch.cat(paths, 1)
    levels, full = watched._levels, decode(pipe, path[-1])
    costs, results = edges(path, levels), []
    for calls in arguments.calls:
        tried: list[dict[str, Any]] = []
        for gamma in GAMMAS:
            spans = plan(costs, calls, gamma)
            make = lambda own, s=spans: Solver(own, "Euler", list(s), meancache(s))  # noqa: E731
            latents = [run(pipe, batch, Method("m", STEPS, scheduler=make))[0] for batch in made]
            near = float(psnr(decode(pipe, torch.cat(latents)), full).mean())
            tried.append({"calls": calls, "gamma": gamma, "run": near, "spans": spans})
            print(f"{calls:3} gamma {gamma} {near:6.2f} dB  {spans}", flush=True)
        results += tried
    if arguments.out:
        write_json(arguments.out, results)


if __name__ == "__main__":
    main()
