"""Are pictures of runs with early coarse calls good, even where they are not the same? Beside two controls that are bad.

    python benchmarks/studies/coarse_quality.py --prompts 96 --out benchmarks/studies/results/coarse_quality_64.json

Three measures: prompt accuracy, Fréchet distance to real scenes in the classifier's features, and Fréchet distance of
patches of pixels, which no network has a part in and which sees blur, smear and ragged edges. A useful measure tells the
two controls, 7 Euler steps and every step at 4p, from the full run.
"""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
import numpy as np
import torch
from _coarse_runs import STEPS, Bench, Plan, growing
from _quality import bootstrap, centred, frechet_interval, psnr, with_interval
from _timing import write_json

from ddit_ext import embedded
from ddit_ext.coarse import Adapter
from ddit_ext.embedded import scenes
from ddit_ext.embedded.classifier import frechet_distance

PROMPT_SEED = 8_000_000
PATCH = 6  # pixels along a side
REAL = 1024


def plans() -> dict[str, Plan]:
    """Name -> plan; the controls with fewer Euler steps are added where their levels are known."""
    early = dict.fromkeys(range(8), 2)
    return {
        "full": Plan.sizes([1] * STEPS),
        "8 at 2p, then 20 full": Plan.sizes([2] * 8 + [1] * 20),
        "8 at 2p, then 5 full, forecast": Plan(early | dict.fromkeys(growing(5, 1.4, start=8), 1), slope=0.5),
        "9 full, forecast": Plan(dict.fromkeys(growing(9, 1.75), 1)),
        "7 full, forecast": Plan(dict.fromkeys(growing(7, 1.75), 1), slope=0.25),
        "every step at 2p": Plan.sizes([2] * STEPS),
        "control: every step at 4p": Plan.sizes([4] * STEPS),
    }


def patches(pictures: np.ndarray) -> np.ndarray:
    """Patches of each picture, moved to a mean of 0: ``[n, patches, PATCH * PATCH * 3]`` in [-1, 1]."""
    count, side = pictures.shape[:2]
    kept = side // PATCH * PATCH
    blocks = pictures[:, :kept, :kept].reshape(count, kept // PATCH, PATCH, kept // PATCH, PATCH, 3) / 255
    flat = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(count, -1, PATCH * PATCH, 3)
    return (flat - flat.mean(2, keepdims=True)).reshape(*flat.shape[:2], -1)


def patch_frechet(shown: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """1000 times the Fréchet distance of patches, with an interval over pictures."""
    own, wanted = patches(shown), patches(real).reshape(-1, PATCH * PATCH * 3)

    def distance(index: np.ndarray) -> float:
        return 1000 * frechet_distance(own[index].reshape(-1, own.shape[-1]), wanted)

    every = np.arange(len(own))
    return centred(distance(every), *bootstrap(distance, len(own), draws=40))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    model = embedded.load("flux")
    adapter = Adapter.load(model.adapter, model.pipeline.transformer)
    prompts = list(model.reference(arguments.prompts, seed=PROMPT_SEED)[1])
    bench = Bench(model, scenes.PICTURE_SIZE, prompts, seed=11)
    features = model.real_features()
    real, asked = model.reference(REAL, seed=PROMPT_SEED + 1)
    rows = []
    reference = None
    listed = [(name, plan, None) for name, plan in plans().items()]
    listed.insert(2, ("control: 7 Euler steps", Plan.sizes([1] * 7), bench.levels(7)))
    print(
        "| plan | accuracy | Fréchet, classifier | Fréchet, patches | PSNR to full |\n|---|---|---|---|---|"
    )
    listed.insert(0, ("real scenes", None, None))
    for name, plan, levels in listed:
        shown = real[: len(prompts)] if plan is None else bench.pictures(bench.run(plan, adapter, levels))
        reference = shown if name == "full" else reference
        judged = model.judge(shown, asked[: len(prompts)] if plan is None else prompts)
        row = {
            "plan": name,
            "accuracy": with_interval(judged.found),
            "frechet": frechet_interval(judged.features, features),
            "patches": patch_frechet(shown, real),
        }
        if reference is not None:
            row["psnr"] = with_interval(np.minimum(psnr(shown, reference), 99))
        rows.append(row)
        cells = [
            f"{row[key]['mean']:.{digits}f} [{row[key]['low']:.{digits}f}, {row[key]['high']:.{digits}f}]"
            for key, digits in (("accuracy", 3), ("frechet", 0), ("patches", 1), ("psnr", 1))
            if key in row
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
        if not arguments.out:
            continue
        settings = {"prompts": len(prompts), "torch": torch.__version__, "date": date.today().isoformat()}
        write_json(arguments.out, settings | {"rows": rows})


if __name__ == "__main__":
    main()
