"""Skipped steps on an embedded model: how close runs come by number of computed steps, growth of gaps, forecast, corrector.

    python benchmarks/studies/forecast_trials.py --prompts 8 --out benchmarks/studies/results/forecast_trials.json
    python benchmarks/studies/forecast_trials.py --model wan --prompts 4 --computed 14 10 7 --out benchmarks/studies/results/forecast_trials_wan.json

Wan runs with Euler steps in the place of its own UniPC, which takes no corrector.

PSNR of pictures to the run that computes all steps, from the same noise. Nothing is timed: the cost of a run is its number of
computed steps. Fewer steps of that number stand beside them.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
import numpy as np
from _runs import Method, batches, decode, run
from _timing import write_json
from diffusers import FlowMatchEulerDiscreteScheduler

from ddit_ext import embedded
from ddit_ext.fidelity import psnr
from ddit_ext.policies import growing_gaps

COMPUTED = (15, 11, 8, 7, 6, 5)
GROWTHS = (1.0, 1.5, 1.75, 2.0, 2.5)
FORECASTS = (0.0, 0.25, 0.5, 0.75, 1.0)
CORRECTORS = (0.0, 1.0)


def markdown(rows: list[dict[str, Any]]) -> str:
    """For each number of computed steps and forecast the best growth, without and with the corrector."""
    lines = ["| computed | fewer steps | " + " | ".join(f"forecast {f:g}" for f in FORECASTS) + " |"]
    lines.append("|---" * (2 + len(FORECASTS)) + "|")
    for row in rows:
        cells = []
        for forecast in FORECASTS:
            shown = []
            for corrector in CORRECTORS:
                found = {
                    growth: row["psnr"][f"{growth:g}"][f"{forecast:g}"][f"{corrector:g}"]
                    for growth in GROWTHS
                }
                best = max(found, key=found.__getitem__)
                shown.append(f"{found[best]:.1f} at {best:g}")
            cells.append("; corrected ".join(shown))
        lines.append(f"| {row['computed']} | {row['fewer steps']:.1f} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("flux", "wan"), default="flux")
    parser.add_argument("--computed", type=int, nargs="+", default=COMPUTED, help="steps of a run")
    parser.add_argument("--steps", type=int, default=embedded.STEPS)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--out", type=Path, default=None, help="JSON; .md is written beside it")
    arguments = parser.parse_args()
    model = embedded.load(arguments.model)
    pipe, steps = model.pipeline, arguments.steps
    if arguments.model == "wan":
        pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=pipe.scheduler.config.flow_shift)
    prompts = model.reference(arguments.prompts, seed=3_000_000)[1]
    (batch,) = batches(pipe, prompts, len(prompts), seed=16)

    def pictures(method: Method) -> np.ndarray:
        return decode(pipe, run(pipe, batch, method)[0])

    full = pictures(Method("full", steps))

    def closeness(method: Method) -> float:
        return float(np.mean(psnr(pictures(method), full)))

    rows = []
    for computed in arguments.computed:
        row: dict[str, Any] = {"computed": computed, "fewer steps": closeness(Method("fewer", computed))}
        found: dict[str, Any] = {}
        for growth, forecast, corrector in itertools.product(GROWTHS, FORECASTS, CORRECTORS):
            told = {
                "schedule": growing_gaps(steps, computed, growth),
                "forecast": forecast,
                "corrector": corrector,
            }
            by_forecast = found.setdefault(f"{growth:g}", {}).setdefault(f"{forecast:g}", {})
            by_forecast[f"{corrector:g}"] = closeness(Method("trial", steps, told))
        row["psnr"] = found
        rows.append(row)
        print(markdown([row]).splitlines()[-1], flush=True)
    if arguments.out:
        write_json(arguments.out, {"rows": rows})
        arguments.out.with_suffix(".md").write_text(markdown(rows))


if __name__ == "__main__":
    main()
