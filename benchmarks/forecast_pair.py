"""Two ways to forecast with equally many computed steps, on many prompts: which is closer, paired by prompt?

    python benchmarks/forecast_pair.py --prompts 96 --out benchmarks/results/forecast_pair.json

By default the preset for three times the speed against the same number of steps in gaps that grow by 1.75, three quarters of
the line and the whole corrector. PSNR of pictures to the run that computes all steps. Nothing is timed: both cost the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from _quality import psnr, with_interval
from _runs import Method, batches, decode, run
from _timing import write_json

import ddit_ext
from ddit_ext import embedded
from ddit_ext.policies import growing_gaps

PRESET = Path(__file__).parent / "results" / "embedded_calibrated_3x.preset.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", type=Path, default=PRESET)
    parser.add_argument("--growth", type=float, default=1.75)
    parser.add_argument("--forecast", type=float, default=0.75)
    parser.add_argument("--corrector", type=float, default=1.0)
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    model = embedded.load("flux")
    preset = ddit_ext.Preset.load(arguments.preset)
    other = {
        "schedule": growing_gaps(preset.steps, preset.choice.computed, arguments.growth),
        "forecast": arguments.forecast,
        "corrector": arguments.corrector,
    }
    methods = [
        Method("full run", preset.full_steps),
        Method("preset", preset.steps, {"adapter": model.adapter, "preset": preset}),
        Method("other", preset.steps, other),
    ]
    prompts = model.reference(arguments.prompts, seed=8_000_000)[1]
    found: dict[str, list[np.ndarray]] = {"preset": [], "other": []}
    for batch in batches(model.pipeline, prompts, arguments.batch, seed=17):
        full, *shown = (decode(model.pipeline, run(model.pipeline, batch, method)[0]) for method in methods)
        for name, pictures in zip(found, shown, strict=True):
            found[name].append(psnr(pictures, full))
    close = {name: np.concatenate(parts) for name, parts in found.items()}
    difference = close["preset"] - close["other"]
    results = {
        "preset is": preset.choice.words(),
        "prompts": len(prompts),
        **{name: with_interval(values) for name, values in close.items()},
        "preset less other": with_interval(difference),
    }
    for name, value in results.items():
        print(f"{name}: {value}")
    if arguments.out:
        write_json(arguments.out, results)


if __name__ == "__main__":
    main()
