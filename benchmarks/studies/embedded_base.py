"""Is an embedded model a fair testbed? Its classifier, its pictures, and what more steps buy.

python benchmarks/studies/embedded_base.py --out benchmarks/studies/results/embedded_base.json
python benchmarks/studies/embedded_base.py --model flux-128 --prompts 48 --curve-prompts 4 --sheet FILE.png
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
import numpy as np
import torch
from _quality import frechet_interval, psnr, with_interval
from _runs import Method, batches, decode, run
from _timing import write_json
from PIL import Image
from tqdm import tqdm

from ddit_ext import Forecast, embedded

ON_SHEET, A_ROW = 24, 8


@dataclass(frozen=True)
class Look:
    """How one model is looked at: a run of good quality, what it draws, and the steps of the curve."""

    good: Method = Method("50 steps", 50)
    prompt_seed: int = 3_000_000
    noise_seed: int = 1
    batch: int = 32
    curve: tuple[int, ...] = (4, 6, 8, 12, 16, 20, 28, 36, 50, 100, 200)


LOOKS = {
    "flux": Look(),
    "wan": Look(),
    # Its calls cost four times as much, so most steps are forecast.
    "flux-128": Look(
        Method("28 steps, 9 computed", 28, {"schedule": Forecast(calls=9)}),
        77_000,
        5,
        8,
        (7, 14, 28, 56, 112),
    ),
}


def pictures_of(model, made, method: Method) -> np.ndarray:
    latents = [run(model.pipeline, batch, method)[0] for batch in tqdm(made, desc=method.name, leave=False)]
    return decode(model.pipeline, torch.cat(latents))


def write_sheet(pictures: np.ndarray, path: Path) -> None:
    """The first of them, so many a row."""
    shown = pictures[: min(ON_SHEET, len(pictures) // A_ROW * A_ROW)]
    rows = [np.concatenate(list(shown[i : i + A_ROW]), axis=1) for i in range(0, len(shown), A_ROW)]
    Image.fromarray(np.concatenate(rows)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=tuple(LOOKS), default="flux")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--curve-prompts", type=int, default=64)
    parser.add_argument(
        "--curve", type=int, nargs="*", help="numbers of steps; default: some that suit the model"
    )
    parser.add_argument("--sheet", type=Path, default=None, help=f"a PNG with the first {ON_SHEET} pictures")
    parser.add_argument("--out", default=None)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model, look = embedded.load(arguments.model), LOOKS[arguments.model]
    results: dict = {}

    real, asked = model.reference(1024, seed=look.prompt_seed - 1)
    results["classifier"] = {
        "fresh real scenes": model.score(real, asked),
        "the same, prompts shuffled": model.score(real, asked[1:] + asked[:1]),
    }
    print(results["classifier"])

    _, prompts = model.reference(arguments.prompts, seed=look.prompt_seed)
    made = batches(model.pipeline, prompts, look.batch, seed=look.noise_seed)
    drawn = pictures_of(model, made, look.good)
    if arguments.sheet:
        write_sheet(drawn, arguments.sheet)
    judged = model.judge(drawn, prompts)
    results[f"base at {look.good.name}"] = {
        "prompts": len(prompts),
        "accuracy": with_interval(judged.found),
        "frechet": model.score(drawn, prompts)["frechet"],
        "frechet of as many real scenes": model.score(real[: len(prompts)], asked[: len(prompts)])["frechet"],
        "shuffled prompts": model.score(drawn, prompts[1:] + prompts[:1])["accuracy"],
    }
    print(results[f"base at {look.good.name}"])

    few = prompts[: arguments.curve_prompts]
    made = batches(model.pipeline, few, look.batch, seed=look.noise_seed + 1)
    other = pictures_of(model, made, look.good)
    results["two seeds of a prompt"] = {"psnr": with_interval(psnr(drawn[: len(few)], other))}
    print(results["two seeds of a prompt"])

    made = batches(model.pipeline, few, look.batch, seed=look.noise_seed)
    numbers = arguments.curve or look.curve
    curve = {steps: pictures_of(model, made, Method(f"{steps} steps", steps)) for steps in numbers}
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
