"""How close a run with coarse steps can come to the run without: oracles, adapter, training-free; and single calls.

    python benchmarks/studies/coarse_ceiling.py --side 128 --out benchmarks/studies/results/coarse_ceiling_128.json
    python benchmarks/studies/coarse_ceiling.py --model flux --side 64 --schedule 2x8,1x20 --schedule 4x4,1x24
    python benchmarks/studies/coarse_ceiling.py --model wan --prompts 8 --no-single

The oracle is the base's own velocity with its low band kept and its detail replaced by the analytic residual: what an
adapter that matches the low band perfectly would give. The blind oracle is the mean of that over noise inside the coarse
patches, which the base's low band depends on too: what an adapter can know that sees the means of patches alone. The
measure of an adapter is how far below them a whole run ends, in dB of the pictures to those of the run without coarse
steps.
"""

from __future__ import annotations

import argparse
import platform
from datetime import date
from pathlib import Path

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
import diffusers
import torch
from _coarse_runs import STEPS, Bench, Plan, spread
from _quality import psnr
from _timing import write_json
from _wan_runs import BENCHES, SIDES
from safetensors.torch import load_file

from ddit_ext import embedded
from ddit_ext.coarse import Adapter

SCHEDULES = (
    "2x4,1x24",
    "2x8,1x20",
    "2x12,1x16",
    "1x3,2x22,1x3",
    "4x4,1x24",
    "4x8,1x20",
    "4x12,1x16",
    "4x4,2x4,1x20",
)
SOURCES = ("oracle", "blind oracle", "training-free", "adapter")
SINGLE = (0, 3, 6, 9, 12)
SCENE_SEED = 31_337


def sizes_of(text: str) -> list[int]:
    """ "2x4,1x24" -> four steps at 2p and 24 at p."""
    sizes = [int(size) for part in text.split(",") for size in [part.split("x")[0]] * int(part.split("x")[1])]
    if len(sizes) != STEPS:
        raise ValueError(f"schedule must name {STEPS} steps as SIZExCOUNT,..., got {len(sizes)} in {text!r}")
    return sizes


def single_calls(bench: Bench, sources: dict[str, Adapter | str], scales: tuple[int, ...]) -> dict:
    """On the states of the plain run: squared error of a call over the mean square of the base's velocity.

    low: of the band that the oracle keeps; whole: of the velocity, where the oracle has an error too.
    """
    found: dict = {}
    latents = bench.noise.clone()
    for step in range(max(SINGLE) + 1):
        sigma = float(bench.sigmas[step])
        full = bench.velocity(latents, sigma)
        if step in SINGLE:
            wanted = bench.unpack(full)
            for scale in scales:
                for name, source in sources.items():
                    given = bench.velocity(latents, sigma, scale, source)
                    wrong = bench.unpack(given) - wanted
                    found[f"{name}, {scale}p, step {step}"] = {
                        "sigma": sigma,
                        "low": (spread(wrong, scale).square().mean() / wanted.square().mean()).item(),
                        "whole": (wrong.square().mean() / wanted.square().mean()).item(),
                    }
        latents = latents + float(bench.sigmas[step + 1] - bench.sigmas[step]) * full
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="flux-128", choices=tuple(BENCHES))
    parser.add_argument("--side", type=int, default=None, choices=(64, 128), help="of FLUX's pictures")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--schedule", action="append", default=[], help="SIZExCOUNT,...; may be given again")
    parser.add_argument(
        "--base", type=Path, default=None, help="weights of the transformer; default: the embedded"
    )
    parser.add_argument("--adapter", type=Path, action="append", default=[], help="default: the embedded one")
    parser.add_argument("--no-single", action="store_true", help="leave out the errors of single calls")
    parser.add_argument("--sources", nargs="+", default=SOURCES, choices=SOURCES, help="default: all")
    parser.add_argument("--no-runs", action="store_true", help="leave out the runs")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()

    model = embedded.load(arguments.model)
    transformer = model.pipeline.transformer
    if arguments.base:
        transformer.load_state_dict({k: v.float() for k, v in load_file(arguments.base).items()})
    prompts = list(model.reference(arguments.prompts, seed=SCENE_SEED)[1])
    side = arguments.side or SIDES[arguments.model]
    bench = BENCHES[arguments.model](model, side, prompts, seed=4242)
    sources: dict[str, Adapter | str] = {"oracle": "oracle", "blind oracle": "blind"}
    sources["training-free"] = Adapter.training_free(
        transformer, positions="grid", detail_variance=bench.detail
    )
    sources = {name: source for name, source in sources.items() if name in arguments.sources}
    if "adapter" in arguments.sources:
        for folder in arguments.adapter or [model.adapter]:
            sources[f"adapter {folder.name}"] = Adapter.load(folder, transformer)

    plain = bench.pictures(bench.run(Plan.sizes([1] * STEPS)))
    accuracy = bench.found(plain)
    print(f"{side} px, {len(prompts)} prompts, found {accuracy:.3f} of what they ask for\n")
    results: dict = {
        "side": side,
        "prompts": len(prompts),
        "accuracy": accuracy,
        "detail": bench.detail,
        "date": date.today().isoformat(),
        "versions": {
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "machine": platform.machine(),
        },
        "runs": {},
    }
    schedules = () if arguments.no_runs else arguments.schedule or SCHEDULES
    print(f"| PSNR to the run, dB | {' | '.join(sources)} |\n" + "|---" * (len(sources) + 1) + "|")
    for text in schedules:
        plan = Plan.sizes(sizes_of(text))
        values = {}
        for name, source in sources.items():
            shown = bench.pictures(bench.run(plan, source))
            values[name] = psnr(shown, plain).tolist()
        results["runs"][text] = values
        means = [f"{sum(each) / len(each):.1f}" for each in values.values()]
        print(f"| {text} | {' | '.join(means)} |", flush=True)
        if arguments.out:  # after each row: runs take long
            write_json(arguments.out, results)
    if not arguments.no_single:
        results["single calls"] = single_calls(bench, sources, (2, 4))
        for kind in ("low", "whole"):
            heads = [f"{bench.sigmas[step]:.3f}" for step in SINGLE]
            print(f"\n| error of the {kind} velocity over \\|v\\|², σ | {' | '.join(heads)} |")
            print("|---" * (len(SINGLE) + 1) + "|")
            for scale in (2, 4):
                for name in sources:
                    row = [results["single calls"][f"{name}, {scale}p, step {step}"][kind] for step in SINGLE]
                    print(f"| {name}, {scale}p | {' | '.join(f'{value:.4f}' for value in row)} |")
    if arguments.out:
        write_json(arguments.out, results)


if __name__ == "__main__":
    main()
