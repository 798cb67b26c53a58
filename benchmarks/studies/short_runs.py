"""Forecasts of short runs and of few calls, on the embedded Wan (UniPC): are they closer than as many plain steps?

    python benchmarks/studies/short_runs.py --out benchmarks/studies/results/short_runs.json

PSNR in dB to the run with all steps / to the exact sample (--exact UniPC steps), means over the clips of one batch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
from _quality import psnr, with_interval
from _runs import Method, batches, decode, run
from _timing import write_json

from ddit_ext import ForecastScheduler, embedded

PROMPT_SEED, NOISE_SEED = 12_000_000, 31
PAIRS = ((6, 3), (12, 4), (12, 6), (12, 8), (20, 8), (20, 10), (28, 8), (28, 11), (28, 14), (50, 15))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--exact", type=int, default=64)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    model = embedded.load("wan")
    pipe = model.pipeline
    pipe.set_progress_bar_config(disable=True)
    prompts = model.reference(arguments.prompts, seed=PROMPT_SEED)[1]
    (batch,) = batches(pipe, prompts, arguments.prompts, seed=NOISE_SEED)

    def drawn(method: Method):
        return decode(pipe, run(pipe, batch, method)[0])

    exact, rows = drawn(Method("exact", arguments.exact)), []
    print("| calls of steps | forecast | as many plain steps |\n|---|---|---|")
    for steps, calls in PAIRS:
        whole, row = drawn(Method("all", steps)), {"steps": steps, "calls": calls}
        for name, method in {
            "forecast": Method(
                "f", steps, scheduler=lambda own, n=calls: ForecastScheduler.from_scheduler(own, calls=n)
            ),
            "plain": Method("p", calls),
        }.items():
            shown = drawn(method)
            row[name] = {
                "run": with_interval(psnr(shown, whole)),
                "exact": with_interval(psnr(shown, exact)),
            }
        cells = [
            f"{row[name]['run']['mean']:.1f} / {row[name]['exact']['mean']:.1f}"
            for name in ("forecast", "plain")
        ]
        print(f"| {calls} of {steps} | {cells[0]} | {cells[1]} |", flush=True)
        rows.append(row)
    if arguments.out:
        write_json(arguments.out, rows)


if __name__ == "__main__":
    main()
