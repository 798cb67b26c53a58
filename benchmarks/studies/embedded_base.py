"""Is an embedded model a fair testbed? Its classifier, its pictures, and what more steps buy.

python benchmarks/studies/embedded_base.py --out benchmarks/studies/results/embedded_base.json
"""

from __future__ import annotations

import argparse

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
import numpy as np
import torch
from _quality import frechet_interval, psnr, with_interval
from _runs import Method, batches, decode, run
from _timing import write_json
from tqdm import tqdm

from ddit_ext import embedded

CURVE = (4, 6, 8, 12, 16, 20, 28, 36, 50, 100, 200)
PROMPT_SEED = 3_000_000


def pictures_of(model, made, steps: int) -> np.ndarray:
    latents = [
        run(model.pipeline, batch, Method("", steps))[0]
        for batch in tqdm(made, desc=f"{steps} steps", leave=False)
    ]
    return decode(model.pipeline, torch.cat(latents))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("flux", "wan"), default="flux")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--curve-prompts", type=int, default=64)
    parser.add_argument("--curve", type=int, nargs="*", default=list(CURVE))
    parser.add_argument("--out", default=None)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = embedded.load(arguments.model)
    results: dict = {}

    real, asked = model.reference(1024, seed=PROMPT_SEED - 1)
    results["classifier"] = {
        "fresh real scenes": model.score(real, asked),
        "the same, prompts shuffled": model.score(real, asked[1:] + asked[:1]),
    }
    print(results["classifier"])

    _, prompts = model.reference(arguments.prompts, seed=PROMPT_SEED)
    made = batches(model.pipeline, prompts, 32, seed=1)
    drawn = pictures_of(model, made, 50)
    judged = model.judge(drawn, prompts)
    results["base at 50 steps"] = {
        "prompts": len(prompts),
        "accuracy": with_interval(judged.found),
        "frechet": model.score(drawn, prompts)["frechet"],
        "frechet of as many real scenes": model.score(real[: len(prompts)], asked[: len(prompts)])["frechet"],
        "shuffled prompts": model.score(drawn, prompts[1:] + prompts[:1])["accuracy"],
    }
    print(results["base at 50 steps"])

    few = prompts[: arguments.curve_prompts]
    other = pictures_of(model, batches(model.pipeline, few, 32, seed=2), 50)
    results["two seeds of a prompt"] = {"psnr": with_interval(psnr(drawn[: len(few)], other))}
    print(results["two seeds of a prompt"])

    made = batches(model.pipeline, few, 32, seed=1)
    curve = {steps: pictures_of(model, made, steps) for steps in arguments.curve}
    best = curve[max(curve)]
    features = model.real_features()
    rows = []
    for steps, shown in curve.items():
        judged = model.judge(shown, few)
        distance = frechet_interval(judged.features, features)
        rows.append(
            {
                "steps": steps,
                "psnr to the most steps": with_interval(psnr(shown, best)),
                "accuracy": with_interval(judged.found),
                "frechet": distance,
            }
        )
        row = rows[-1]
        print(
            f"{steps:4d} steps  PSNR {row['psnr to the most steps']['mean']:6.2f} dB  "
            f"accuracy {row['accuracy']['mean']:.3f}  Frechet {distance['mean']:.0f} [{distance['low']:.0f}, {distance['high']:.0f}]"
        )
    results["curve"] = rows
    if arguments.out:
        write_json(arguments.out, results)


if __name__ == "__main__":
    main()
