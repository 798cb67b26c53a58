"""A row a method: its speed and how close its pictures are, with intervals; as data and as a Markdown table."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from _quality import frechet_interval, psnr, ssim, with_interval
from _runs import Method, Outcome, decode
from _timing import median_interval

from ddit_ext import embedded
from ddit_ext.fidelity import temporal_fidelity

SCALES = (1, 2, 4)
COLUMNS = {
    "speed": ("speed", 2),
    "psnr": ("PSNR dB", 1),
    "ssim": ("SSIM", 3),
    "accuracy": ("accuracy", 3),
    "frechet": ("Fréchet", 1),
    "flicker": ("flicker", 2),
    "motion": ("motion", 2),
}
"""Measure -> its head and digits, in the table's order; each is {"mean", "low", "high"}."""


def judge(
    model: embedded.Embedded,
    outcomes: dict[str, Outcome],
    methods: list[Method],
    prompts: list[str],
    real: np.ndarray | None = None,
    each: dict[str, dict[str, list[float]]] | None = None,
) -> list[dict[str, Any]]:
    """One row a method, compared with the first.

    real: features of real pictures, for a Fréchet distance. each: filled with every method's PSNR of each prompt and
    speed on each batch. A speed's interval is the whole range where there are fewer than 6 batches.
    """
    base = outcomes[methods[0].name]
    reference = decode(model.pipeline, torch.cat(base.latents))
    rows = []
    for method in methods:
        outcome = outcomes[method.name]
        shown = decode(model.pipeline, torch.cat(outcome.latents))
        judged = model.judge(shown, prompts)
        ratios = outcome.speed(base)
        low, high = median_interval(ratios)
        closeness = psnr(shown, reference)
        further = {} if real is None else {"frechet": frechet_interval(judged.features, real)}
        if shown.ndim == 5:
            compared = temporal_fidelity(shown, reference)
            further["flicker"] = with_interval(compared.flicker)
            further["motion"] = with_interval(np.nan_to_num(compared.motion, nan=1.0))
        sizes = [step["scale"] for report in outcome.reports for step in report["steps"]]
        rows.append(
            {
                "method": method.name,
                "steps": method.steps,
                "speed": {"mean": float(np.median(ratios)), "low": low, "high": high},
                "psnr": with_interval(closeness),
                "ssim": with_interval(ssim(shown, reference)),
                "accuracy": with_interval(judged.found),
                **further,
                "steps per size": {s: sizes.count(s) / len(outcome.reports) for s in SCALES}
                if sizes
                else None,
            }
        )
        if each is not None:
            each[method.name] = {"psnr": closeness.tolist(), "speed": ratios.tolist()}
    return rows


def cell(value: dict[str, float] | None, digits: int) -> str:
    """A figure with its interval; empty where there is none."""
    if value is None:
        return ""
    return f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def table(rows: list[dict[str, Any]], further: dict[str, tuple[str, int]] | None = None) -> str:
    """The rows in Markdown. further: columns after those of COLUMNS, alike."""
    columns = {name: shown for name, shown in COLUMNS.items() if name in rows[0]} | (further or {})
    heads = ["method", "steps", *(head for head, _ in columns.values()), "steps at p/2p/4p"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        sizes = row["steps per size"]
        shown = " / ".join(f"{sizes[scale]:.1f}" for scale in SCALES) if sizes else f"{row['steps']} / 0 / 0"
        cells = [cell(row[name], digits) for name, (_, digits) in columns.items()]
        lines.append(f"| {' | '.join([row['method'], str(row['steps']), *cells, shown])} |")
    return "\n".join(lines)
