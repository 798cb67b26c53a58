"""Coarse calls early, forecasts between, full calls late: against forecasts alone, at several ratios of the calls' costs.

    python benchmarks/coarse_then_forecast.py --side 128 --out benchmarks/results/coarse_then_forecast_128.json

Every plan runs with the oracle (a perfect low band) and with the adapter. Two yardsticks: PSNR to the run of all steps,
and to the ODE's own sample. A plan's cost is counted in full calls, by ratios: how many coarse calls take as long as a
full one. So the same runs answer for this machine and for models where a coarse call is nearly free.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import diffusers
import numpy as np
import torch
from _coarse_runs import STEPS, Bench, Plan, growing
from _quality import psnr, with_interval
from _timing import write_json
from safetensors.torch import load_file

from ddit_ext import embedded
from ddit_ext.coarse import Adapter

RATIOS = {
    "FLUX.1-dev 1024x1024": {1: 1.0, 2: 3.0, 4: 6.0},
    "Wan 480x832x81": {1: 1.0, 2: 8.0, 4: 36.0},
}
"""Calls at 2p and 4p that take as long as one at p, as estimated for these models; this machine's are measured."""
SCENE_SEED = 31_337
EXACT_STEPS = 96
BUDGETS = (1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)  # times the speed of all STEPS calls


def forecasts(exact: bool) -> dict[str, Plan]:
    """Forecasts alone, by calls; growth and slope as findings have them for each yardstick."""
    plans = {}
    for calls in (3, 4, 5, 6, 7, 9, 11, 15, 19):
        slope, growth = (0.5, 1.75) if exact else (0.75 if calls > 7 else 0.25, 1.75)
        places = growing(calls, growth)
        plans[f"{calls} full"] = Plan(dict.fromkeys(places, 1), slope=slope, exact=exact)
    return plans


def coarse_first(early: Mapping[int, int], until: int, full: int, growth: float, **options) -> Plan:
    """Coarse calls at the steps of ``early``, then so many full calls from step ``until`` on, their gaps growing."""
    return Plan({**early, **dict.fromkeys(growing(full, growth, start=until), 1)}, **options)


def mixed(exact: bool) -> dict[str, Plan]:
    """Coarse calls on the first steps, each or every second, with full calls after them."""
    plans = {}
    slope = 0.5
    for until, every in ((4, 1), (4, 2), (8, 1), (8, 2), (12, 1), (12, 2)):
        early = dict.fromkeys(range(0, until, every), 2)
        for full in (3, 5, 8):
            name = f"{len(early)} at 2p to step {until}, {full} full"
            plans[name] = coarse_first(early, until, full, 1.4, slope=slope, exact=exact)
    for until in (8, 12):
        early = dict.fromkeys(range(0, 4, 2), 4) | dict.fromkeys(range(4, until, 2), 2)
        for full in (3, 5):
            name = f"2 at 4p, {len(early) - 2} at 2p to step {until}, {full} full"
            plans[name] = coarse_first(early, until, full, 1.4, slope=slope, exact=exact)
    return plans


@torch.no_grad()
def measured_ratios(bench: Bench, adapter: Adapter, rounds: int = 7) -> dict[int, float]:
    """How many coarse calls of one picture take as long as one full call here: medians of turns."""
    small = Bench(bench.model, bench.side, bench.prompts[:1], seed=1)
    seconds: dict[int, list[float]] = {1: [], 2: [], 4: []}
    for _ in range(rounds + 1):
        for scale, taken in seconds.items():
            started = time.perf_counter()
            small.velocity(small.noise, 0.9, scale, adapter)
            taken.append(time.perf_counter() - started)
    medians = {scale: float(np.median(taken[1:])) for scale, taken in seconds.items()}
    return {scale: medians[1] / taken for scale, taken in medians.items()}


def best_at(
    rows: list[dict], budget: float, ratios: str, kind: str, source: str | None, yardstick: str
) -> dict | None:
    """The best plan of a kind that is at least ``budget`` times as fast; None where there is none."""
    fitting = [
        row
        for row in rows
        if row["kind"] == kind
        and row["yardstick"] == yardstick
        and (source is None or row["source"] == source)
        and STEPS / row["cost"][ratios] >= budget - 1e-9
    ]
    return max(fitting, key=lambda row: row["psnr"]["mean"]) if fitting else None


def tables(rows: list[dict], ratios: dict[str, dict[int, float]]) -> str:
    lines = []
    for yardstick in ("run", "exact"):
        for name in ratios:
            lines += [
                f"\nPSNR in dB to the {yardstick}; costs of {name}: 2p {ratios[name][2]:.1f}, 4p {ratios[name][4]:.1f}",
                "",
                "| at least | forecast alone | coarse early, adapter | coarse early, oracle |",
                "|---|---|---|---|",
            ]
            for budget in BUDGETS:
                cells = []
                for kind, source in (("forecast", None), ("mixed", "adapter"), ("mixed", "oracle")):
                    best = best_at(rows, budget, name, kind, source, yardstick)
                    cells.append("" if best is None else f"{best['psnr']['mean']:.1f} ({best['plan']})")
                lines.append(f"| {budget:g}x | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="flux-128", choices=("flux", "flux-128"))
    parser.add_argument("--side", type=int, default=128, choices=(64, 128))
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument(
        "--base", type=Path, default=None, help="weights of the transformer; default: the embedded"
    )
    parser.add_argument("--adapter", type=Path, default=None, help="default: the embedded one")
    parser.add_argument("--sources", nargs="+", default=["oracle", "adapter"], choices=("oracle", "adapter"))
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()

    model = embedded.load(arguments.model)
    transformer = model.pipeline.transformer
    if arguments.base:
        transformer.load_state_dict({k: v.float() for k, v in load_file(arguments.base).items()})
    adapter = Adapter.load(arguments.adapter or model.adapter, transformer)
    prompts = list(model.reference(arguments.prompts, seed=SCENE_SEED)[1])
    bench = Bench(model, arguments.side, prompts, seed=4242)
    ratios = RATIOS | {"this machine": measured_ratios(bench, adapter)}

    plain = bench.pictures(bench.run(Plan.sizes([1] * STEPS)))
    levels = bench.levels(EXACT_STEPS)
    every = Plan(dict.fromkeys(range(EXACT_STEPS), 1), slope=0.5, exact=True)
    exact = bench.pictures(bench.run(every, sigmas=levels))
    wanted = {"run": plain, "exact": exact}
    print(f"the run of {STEPS} steps to the exact sample: {psnr(plain, exact).mean():.1f} dB", flush=True)

    rows: list[dict] = []
    for yardstick, reference in wanted.items():
        aims = yardstick == "exact"
        plans = {("forecast", name): plan for name, plan in forecasts(aims).items()}
        plans |= {("mixed", name): plan for name, plan in mixed(aims).items()}
        for (kind, name), plan in plans.items():
            for source in ("oracle",) if kind == "forecast" else arguments.sources:
                shown = bench.pictures(bench.run(plan, adapter if source == "adapter" else "oracle"))
                row = {
                    "kind": kind,
                    "plan": name,
                    "source": source,
                    "yardstick": yardstick,
                    "calls": {str(step): size for step, size in plan.calls.items()},
                    "psnr": with_interval(psnr(shown, reference)),
                    "each": psnr(shown, reference).tolist(),
                    "cost": {given: plan.cost(costs) for given, costs in ratios.items()},
                }
                rows.append(row)
                costs = " / ".join(f"{cost:.1f}" for cost in row["cost"].values())
                print(
                    f"{yardstick} | {name} | {source} | {row['psnr']['mean']:.1f} dB | cost {costs}",
                    flush=True,
                )
    print(tables(rows, ratios))
    if arguments.out:
        result = {
            "side": arguments.side,
            "prompts": len(prompts),
            "ratios": ratios,
            "rows": rows,
            "date": date.today().isoformat(),
            "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        }
        write_json(arguments.out, result)
        arguments.out.with_suffix(".md").write_text(tables(rows, ratios).strip() + "\n")


if __name__ == "__main__":
    main()
