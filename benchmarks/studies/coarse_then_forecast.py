"""Coarse calls early, forecasts between, full calls late: against forecasts alone, at several ratios of the calls' costs.

    python benchmarks/studies/coarse_then_forecast.py --side 128 --out benchmarks/studies/results/coarse_then_forecast_128.json

Every plan runs with the oracle (a perfect low band) and with the adapter. Two yardsticks: PSNR to the run of all steps,
and to the ODE's own sample. A plan's cost is counted in full calls, by ratios: how many coarse calls take as long as a
full one. So the same runs answer for this machine and for models where a coarse call is nearly free.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
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
EXACT_STEPS = 64
BUDGETS = (2.5, 3.0, 4.0, 5.0, 6.0, 8.0)  # times the speed of all STEPS calls


def forecasts(exact: bool) -> dict[str, Plan]:
    """Forecasts alone, by calls; growth and slope as findings have them for each yardstick."""
    plans = {}
    for calls in (3, 4, 5, 6, 7, 9, 11):
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
    for until, every in ((4, 1), (4, 2), (8, 1), (8, 2)):
        early = dict.fromkeys(range(0, until, every), 2)
        for full in (3, 5):
            name = f"{len(early)} at 2p to step {until}, {full} full"
            plans[name] = coarse_first(early, until, full, 1.4, slope=slope, exact=exact)
    early = {0: 4, 2: 4, 4: 2, 6: 2}
    for full in (3, 5):
        plans[f"2 at 4p, 2 at 2p to step 8, {full} full"] = coarse_first(
            early, 8, full, 1.4, slope=slope, exact=exact
        )
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


def costs_of(row: dict, ratios: dict[str, dict[int, float]]) -> dict[str, float]:
    return {name: sum(1 / given[size] for size in row["calls"].values()) for name, given in ratios.items()}


def references(bench: Bench, cache: Path | None) -> dict[str, np.ndarray]:
    """The pictures of the run of all steps, and of the ODE: a second-order run of EXACT_STEPS calls."""
    files = (
        {name: cache / f"{name}-{bench.side}-{len(bench.prompts)}.npy" for name in ("run", "exact")}
        if cache
        else {}
    )
    if files and all(file.exists() for file in files.values()):
        return {name: np.load(file) for name, file in files.items()}
    every = Plan(dict.fromkeys(range(EXACT_STEPS), 1), slope=0.5, exact=True)
    found = {
        "run": bench.pictures(bench.run(Plan.sizes([1] * STEPS))),
        "exact": bench.pictures(bench.run(every, sigmas=bench.levels(EXACT_STEPS))),
    }
    for name, file in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, found[name])
    return found


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
    parser.add_argument(
        "--cache", type=Path, default=None, help="a folder that keeps the references' pictures"
    )
    parser.add_argument(
        "--add-to", type=Path, default=None, help="an earlier result whose other rows are kept"
    )
    parser.add_argument("--yardsticks", nargs="+", default=["run", "exact"], choices=("run", "exact"))
    parser.add_argument(
        "--no-forecasts", action="store_true", help="leave out the plans without coarse calls"
    )
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()

    model = embedded.load(arguments.model)
    transformer = model.pipeline.transformer
    if arguments.base:
        transformer.load_state_dict({k: v.float() for k, v in load_file(arguments.base).items()})
    given = arguments.adapter or model.adapter
    adapter = Adapter.load(given, transformer) if given.exists() else Adapter.training_free(transformer)
    prompts = list(model.reference(arguments.prompts, seed=SCENE_SEED)[1])
    bench = Bench(model, arguments.side, prompts, seed=4242)
    ratios = RATIOS | {"this machine": measured_ratios(bench, adapter)}

    wanted = references(bench, arguments.cache)
    print(f"the run of {STEPS} steps to the exact sample: {psnr(*wanted.values()).mean():.1f} dB", flush=True)

    rows: list[dict] = []
    if arguments.add_to:
        rows = [
            row | {"cost": costs_of(row, ratios)} for row in json.loads(arguments.add_to.read_text())["rows"]
        ]
        rows = [row for row in rows if row["kind"] == "forecast" or row["source"] not in arguments.sources]
    known = {row["plan"] for row in rows if row["kind"] == "forecast"}
    for yardstick in arguments.yardsticks:
        reference = wanted[yardstick]
        aims = yardstick == "exact"
        plans = {("forecast", name): plan for name, plan in forecasts(aims).items() if name not in known}
        if arguments.no_forecasts:
            plans = {}
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
                }
                row["cost"] = costs_of(row, ratios)
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
