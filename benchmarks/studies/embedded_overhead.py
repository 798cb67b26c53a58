"""What a patch costs at schedule=1: time per step of the embedded FLUX, patched over unpatched.

    python benchmarks/studies/embedded_overhead.py --out benchmarks/studies/results/embedded_overhead.json

Runs of --steps steps, the two taking turns in either order; the figure is the median over rounds of the ratio within
a round, beside the same figure for two unpatched runs, which shows how far the machine's noise reaches.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
import numpy as np
import torch
from _quality import bootstrap
from _runs import Method, batches, run
from _timing import write_json

from ddit_ext import embedded

PROMPT_SEED = 7_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = embedded.load("flux")
    prompts = model.reference(arguments.batch, seed=PROMPT_SEED)[1]
    batch = batches(model.pipeline, prompts, arguments.batch, seed=1)[0]
    methods = [
        Method("unpatched", arguments.steps),
        Method("patched, schedule=1", arguments.steps, {"adapter": model.adapter, "schedule": 1}),
        Method("unpatched again", arguments.steps),
    ]
    seconds = {method.name: [] for method in methods}
    latents = {}
    for index in range(arguments.rounds + 2):
        for method in methods if index % 2 else reversed(methods):
            latents[method.name], taken, _ = run(model.pipeline, batch, method)
            if index >= 2:
                seconds[method.name].append(taken)
    if not torch.equal(latents["unpatched"], latents["patched, schedule=1"]):
        raise SystemExit("schedule=1 is not bit-identical to the unpatched pipeline")
    base = np.array(seconds["unpatched"])
    results = {"batch": arguments.batch, "steps": arguments.steps}
    for method in methods[1:]:
        ratios = np.array(seconds[method.name]) / base
        low, high = bootstrap(lambda i, r=ratios: float(np.median(r[i])), len(ratios))
        results[method.name] = {"ratio": float(np.median(ratios)), "low": low, "high": high}
        print(f"{method.name:<22} {np.median(ratios):.4f} [{low:.4f}, {high:.4f}] of unpatched")
    if arguments.out:
        write_json(arguments.out, results)


if __name__ == "__main__":
    main()
