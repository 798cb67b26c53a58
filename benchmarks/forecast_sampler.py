"""How close ForecastScheduler comes to the pipeline's own run and to the exact sample, by model calls.

    python benchmarks/forecast_sampler.py --prompts 48 --out benchmarks/results/forecast_sampler.json
    python benchmarks/forecast_sampler.py --model wan --prompts 8 --calls 14 9 7 --out benchmarks/results/forecast_sampler_wan.json

Two yardsticks, PSNR of pictures from the same noise: the run of all steps, and the exact sample, many steps of UniPC.
--keep holds the latents of each run, so that a run that was stopped goes on. Nothing is timed: a run's cost is its
number of model calls.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _quality import bootstrap
from _runs import Method, batches, decode, run
from _timing import write_json
from diffusers import UniPCMultistepScheduler

from ddit_ext import ForecastScheduler, embedded
from ddit_ext.fidelity import psnr

PROMPT_SEED, NOISE_SEED = 9_000_000, 15


def exact_sampler(own: Any) -> Any:
    """UniPC over the levels that the pipeline's own sampler would have."""
    if isinstance(own, UniPCMultistepScheduler):
        return own
    return UniPCMultistepScheduler(
        use_flow_sigmas=True,
        prediction_type="flow_prediction",
        use_dynamic_shifting=own.config.use_dynamic_shifting,
        time_shift_type=own.config.time_shift_type,
    )


class Latents:
    """The latents of each run, [prompts, ...], kept in a folder."""

    def __init__(self, pipe: Any, made: list[Any], folder: Path | None) -> None:
        self.pipe, self.batches, self.folder = pipe, made, folder

    def of(self, name: str, scheduler: Any, steps: int) -> torch.Tensor:
        path = self.folder / f"{name}.pt" if self.folder else None
        done = list(torch.load(path)) if path and path.exists() else []
        own = self.pipe.scheduler
        self.pipe.scheduler = scheduler
        try:
            for batch in self.batches[len(done) :]:
                done.append(run(self.pipe, batch, Method(name, steps))[0])
                if path:
                    torch.save(done, path)
        finally:
            self.pipe.scheduler = own
        return torch.cat(done)


def told(values: np.ndarray) -> dict[str, float]:
    """Mean with its 95 % interval over prompts."""
    low, high = bootstrap(lambda index: float(values[index].mean()), len(values))
    return {"mean": float(values.mean()), "low": low, "high": high}


def markdown(rows: list[dict[str, Any]]) -> str:
    """One line a target and number of calls."""
    lines = [
        "| target | calls | to the run, dB | to the exact sample, dB | against all steps, dB |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            f"{row[key]['mean']:.1f} [{row[key]['low']:.1f}, {row[key]['high']:.1f}]" if row.get(key) else ""
            for key in ("run", "exact", "gain")
        ]
        lines.append(f"| {row['target']} | {row['calls']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("flux", "wan"), default="flux")
    parser.add_argument("--calls", type=int, nargs="+", default=[15, 11, 9, 7, 5])
    parser.add_argument("--targets", nargs="+", default=["exact", "run"])
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--exact", type=int, default=200, help="UniPC steps of the exact sample")
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--keep", type=Path, default=None, help="folder for the latents of each run")
    parser.add_argument("--out", type=Path, default=None, help="JSON; .md is written beside it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = embedded.load(arguments.model)
    pipe = model.pipeline
    prompts = model.reference(arguments.prompts, seed=PROMPT_SEED)[1]
    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
    latents = Latents(pipe, list(batches(pipe, prompts, arguments.batch, seed=NOISE_SEED)), arguments.keep)
    own = pipe.scheduler
    exact = decode(pipe, latents.of("exact", exact_sampler(own), arguments.exact))
    full = decode(pipe, latents.of("full", own, arguments.steps))
    of_full = psnr(full, exact)
    rows = [{"target": "all steps", "calls": arguments.steps, "exact": told(of_full)}]
    for target in arguments.targets:
        for calls in arguments.calls:
            scheduler = ForecastScheduler.from_scheduler(own, calls=calls, target=target)
            made = decode(pipe, latents.of(f"{target} {calls}", scheduler, arguments.steps))
            to_exact = psnr(made, exact)
            rows.append(
                {
                    "target": target,
                    "calls": calls,
                    "run": told(psnr(made, full)),
                    "exact": told(to_exact),
                    "gain": told(to_exact - of_full),
                }
            )
            print(markdown(rows[-1:]).splitlines()[-1], flush=True)
    if arguments.out:
        about = {"prompts": arguments.prompts, "steps": arguments.steps, "exact steps": arguments.exact}
        write_json(arguments.out, {"about": about, "rows": rows})
        arguments.out.with_suffix(".md").write_text(markdown(rows))


if __name__ == "__main__":
    main()
