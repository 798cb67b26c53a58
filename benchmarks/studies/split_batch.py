"""A batch whose samples each take their own sizes, against one that takes the finest of them.

    python benchmarks/studies/split_batch.py --out benchmarks/studies/results/split_batch.json

The embedded FLUX, batches of 8 prompts; every other one has a textured background, the rest plain ones or gradients. One
threshold, differences across a change of size left out. Fixed p, `batch="finest"` and `batch="split"` take turns on the same
noise. Times are whole denoising loops; ratios are of the same batch, given as the median over batches with the interval that the order
of the values alone supports. Fidelity is to the fixed-p sample, 95 % bootstrap over samples; at most 50 dB count.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
import numpy as np
import torch
from _quality import psnr, ssim, with_interval
from _runs import Method, Outcome, batches, decode, interleaved_runs
from _study_summary import ALIKE, TEXTURED
from _timing import median_interval, write_json

from ddit_ext import embedded
from ddit_ext.embedded.vocabulary import parse
from ddit_ext.policies import PatchScheduler

SCALES = (1, 2, 4)
PROMPT_SEED = 9_000_000
FIXED, FINEST, SPLIT = "fixed p", "finest", "split"


def mixed_prompts(model: embedded.Embedded, count: int) -> list[str]:
    """Textured backgrounds and others in turn."""
    found = model.reference(4 * count, seed=PROMPT_SEED)[1]
    textured = [prompt for prompt in found if parse(prompt)[1] in TEXTURED]
    others = [prompt for prompt in found if parse(prompt)[1] not in TEXTURED]
    prompts = [prompt for pair in zip(textured, others, strict=False) for prompt in pair][:count]
    if len(prompts) < count:
        raise RuntimeError(
            f"of {len(found)} prompts {len(textured)} are textured, {len(others)} not: too few"
        )
    return prompts


def ratio(outcome: Outcome, base: Outcome) -> dict[str, float]:
    """Seconds over those of `base` on the same batch."""
    ratios = [mine / theirs for mine, theirs in zip(outcome.seconds, base.seconds, strict=True)]
    low, high = median_interval(ratios)
    return {"mean": statistics.median(ratios), "low": low, "high": high}


def sizes_of(outcome: Outcome, samples: int, steps: int) -> tuple[list[list[int]], float]:
    """The sizes of every sample's steps, and the mean number of transformer calls a step."""
    if not outcome.reports:
        return [[1] * steps] * samples, 1.0
    sizes, calls = [], []
    for report in outcome.reports:
        split = report["batch"] == "split"
        rows = [
            step["scales"] if split else [step["scale"]] * len(step["scales"]) for step in report["steps"]
        ]
        sizes += [list(sample) for sample in zip(*rows, strict=True)]
        calls += [len(set(row)) for row in rows]
    return sizes, statistics.mean(calls)


def judge(pipe: Any, outcomes: dict[str, Outcome], steps: int) -> list[dict[str, Any]]:
    """One row a method."""
    reference = decode(pipe, torch.cat(outcomes[FIXED].latents))
    rows = []
    for name, outcome in outcomes.items():
        shown = decode(pipe, torch.cat(outcome.latents))
        sizes, calls = sizes_of(outcome, len(shown), steps)
        counted = np.array([[sample.count(scale) for scale in SCALES] for sample in sizes])
        rows.append(
            {
                "method": name,
                "seconds": statistics.median(outcome.seconds),
                "of fixed p": ratio(outcome, outcomes[FIXED]),
                "of finest": ratio(outcome, outcomes[FINEST]),
                "steps per size": dict(zip(SCALES, counted.mean(axis=0).tolist(), strict=True)),
                "schedules": len({tuple(sample) for sample in sizes}),
                "calls per step": calls,
                "psnr": with_interval(np.minimum(psnr(shown, reference), ALIKE)),
                "ssim": with_interval(ssim(shown, reference)),
                "sizes": ["".join(map(str, sample)) for sample in sizes],
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    heads = ["batch", "seconds", "of fixed p", "of finest", "steps at p/2p/4p", "different schedules"]
    heads += ["calls a step", "PSNR, dB", "SSIM"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        intervals = [
            f"{row[name]['mean']:.{digits}f} [{row[name]['low']:.{digits}f}, {row[name]['high']:.{digits}f}]"
            for name, digits in (("of fixed p", 3), ("of finest", 3), ("psnr", 1), ("ssim", 3))
        ]
        shown = " / ".join(f"{count:.1f}" for count in row["steps per size"].values())
        cells = [row["method"], f"{row['seconds']:.2f}", *intervals[:2], shown, str(row["schedules"])]
        cells += [f"{row['calls per step']:.2f}", *intervals[2:]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=embedded.STEPS)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument(
        "--threshold", type=float, default=1.6e-3, help="the study's, at which half of the cost is left"
    )
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    model = embedded.load("flux")
    rule = PatchScheduler(list(SCALES), [arguments.threshold] * 2, mixed="hold")
    methods = [Method(FIXED, arguments.steps)]
    methods += [
        Method(how, arguments.steps, {"adapter": model.adapter, "schedule": rule, "batch": how})
        for how in (FINEST, SPLIT)
    ]
    made = batches(model.pipeline, mixed_prompts(model, arguments.prompts), arguments.batch, seed=14)
    rows = judge(model.pipeline, interleaved_runs(model.pipeline, made, methods), arguments.steps)
    print(table(rows))
    if arguments.out:
        write_json(arguments.out, {"threshold": arguments.threshold, "rows": rows})
        arguments.out.with_suffix(".md").write_text(table(rows) + "\n")


if __name__ == "__main__":
    main()
