"""Two ways to forecast with equally many computed steps, on many prompts: which is closer, paired by prompt?

    python benchmarks/studies/forecast_pair.py --prompts 96 --out benchmarks/studies/results/forecast_pair.json

A way is the growth of the gaps, the share of the line and that of the corrector. By default the two that `calibrate` took
for the best at three times the speed when it went by 8 prompts, and by 32. PSNR of pictures to the run that computes all steps, on
prompts of neither calibration. Nothing is timed: both cost the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
import numpy as np
from _quality import psnr, with_interval
from _runs import Method, batches, decode, run
from _timing import write_json

from ddit_ext import embedded
from ddit_ext.policies import growing_gaps

SEED = 8_000_000


def method(name: str, steps: int, computed: int, way: list[float]) -> Method:
    growth, forecast, corrector = way
    told = {"schedule": growing_gaps(steps, computed, growth), "forecast": forecast, "corrector": corrector}
    return Method(name, steps, told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--computed", type=int, default=9)
    parser.add_argument("--first", type=float, nargs=3, default=[2.0, 0.75, 0.5])
    parser.add_argument("--second", type=float, nargs=3, default=[1.75, 0.75, 1.0])
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    model = embedded.load("flux")
    steps = embedded.STEPS
    ways = {"first": arguments.first, "second": arguments.second}
    methods = [method(name, steps, arguments.computed, way) for name, way in ways.items()]
    prompts = model.reference(arguments.prompts, seed=SEED)[1]
    found: dict[str, list[np.ndarray]] = {name: [] for name in ways}
    for batch in batches(model.pipeline, prompts, arguments.batch, seed=17):
        full, *shown = (
            decode(model.pipeline, run(model.pipeline, batch, each)[0])
            for each in (Method("full run", steps), *methods)
        )
        for name, pictures in zip(found, shown, strict=True):
            found[name].append(psnr(pictures, full))
    close = {name: np.concatenate(parts) for name, parts in found.items()}
    results = {
        "steps": steps,
        "computed": arguments.computed,
        "growth, share of the line, corrector": ways,
        "prompts": len(prompts),
        **{name: with_interval(values) for name, values in close.items()},
        "first less second": with_interval(close["first"] - close["second"]),
    }
    for name, value in results.items():
        print(f"{name}: {value}")
    if arguments.out:
        write_json(arguments.out, results)


if __name__ == "__main__":
    main()
