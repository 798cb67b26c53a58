"""Steps, sizes, both together and diffusers' caches on one clock: fidelity against measured time, 1.1x to 6x.

    python benchmarks/embedded_caches.py --prompts 32 --out benchmarks/results/embedded_caches.json

On the embedded FLUX, in one interleaved run: fewer steps; sizes alone, on a budget and in a fixed schedule that is fine at both
ends; presets of `ddit_ext.calibrate`, which choose both; TeaCache's rule, alone and with sizes; skipped steps that are
forecast, with their controls; each of diffusers' caches alone, and stacked on that fixed schedule or on a budget.

A machine's speed wanders, so six steps at p run before and after each method, and seconds are counted in these: a speed is the
median over batches of fixed p's seconds to the method's. Fidelity is to the fixed-p sample of the same noise. Every method is
compared with fewer steps of equal measured time, by interpolation, and every preset with all other methods: which of them are
closer and no slower? Of those that are closer and not much slower, three batches can't tell. They take turns with the
preset --again times on one batch: what is no slower by the whole interval of the ratios' median beats it, and where the
interval includes 1 that can't be told.

Presets take minutes to make: with --presets FOLDER those of an earlier run (benchmarks/embedded_calibrated.py --out, or this one)
are measured.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _caches import magnitude_ratios, settings
from _entries import (
    CACHES,
    CALIBRATED,
    FEWER,
    Entry,
    both_together,
    cached,
    forecasting,
    paper_stack,
    policies,
    skipping,
    steps_alone,
)
from _equal_time import Samples, above_line, rivals
from _lines_plot import plot_lines
from _rows import cell, judge, table
from _runs import Batch, Method, batches, interleaved_runs, run
from _thresholds import both_ends
from _timing import interleaved, write_json
from diffusers.utils import logging
from embedded_calibrated import calibrated
from embedded_frontier import step_costs

import ddit_ext
from ddit_ext import embedded

CALIBRATION_SEED, PROMPT_SEED = 8_000_000, 9_000_000
YARDSTICK = Method("before and after", 6)
GROUPS = ("ours", CACHES)


def find_presets(
    model: embedded.Embedded, arguments: argparse.Namespace, seen: Sequence[str]
) -> list[ddit_ext.Preset]:
    """Those of --presets, or one a target, calibrated on the prompts and saved beside --out."""
    if arguments.presets is not None:
        files = sorted(arguments.presets.glob("*.preset.json"))
        if not files:
            raise FileNotFoundError(f"--presets {arguments.presets}: no *.preset.json there")
        return sorted(map(ddit_ext.Preset.load, files), key=lambda preset: preset.target_speedup)
    made, missing = calibrated(model, arguments.targets, seen, arguments.batch, arguments.steps)
    for target, reason in missing.items():
        print(f"no preset for {target:g}x: {reason}")
    for target, preset in made.items():
        print(f"{preset}\n")
        if arguments.out:
            preset.save(arguments.out.with_name(f"{arguments.out.stem}_{target:g}x.preset.json"))
    return list(made.values())


def compare(rows: list[dict[str, Any]], entries: Sequence[Entry], each: dict[str, Any], batch: int) -> None:
    """Add to the rows their lines, how they stand to fewer steps, and to presets who may beat them."""
    samples = {name: Samples.of(values["psnr"], values["speed"], batch) for name, values in each.items()}
    fewer = [samples[entry.method.name] for entry in entries if entry.line == FEWER]
    for row, entry in zip(rows, entries, strict=True):
        row["line"] = entry.line
        own = samples[entry.method.name]
        row["above fewer steps"] = above_line(own, fewer) if entry.line not in (FEWER, "fixed p") else None
        if entry.line == CALIBRATED:
            for group in GROUPS:
                others = {
                    e.method.name: samples[e.method.name]
                    for e in entries
                    if e.group == group and e is not entry
                }
                row[f"rivals of {group}"] = rivals(own, others)


def time_again(
    pipe: Any, batch: Batch, rows: list[dict[str, Any]], methods: list[Method], rounds: int
) -> None:
    """Add to each preset's row its rivals' seconds over its own, in turns, and which of them beat it."""
    named = {method.name: method for method in methods}
    for row in (row for row in rows if row["line"] == CALIBRATED):
        near = [name for group in GROUPS for name in row[f"rivals of {group}"]]
        turns = {name: partial(run, pipe, batch, named[name]) for name in (row["method"], *near)}
        found = interleaved(turns, rounds, warmup=1, clock=lambda call: call()[1]) if near else {}
        row["rivals' time"] = {
            name: {
                "mean": found[name]["ratio"],
                "low": found[name]["ratio_low"],
                "high": found[name]["ratio_high"],
            }
            for name in near
        }
        for group in GROUPS:
            times = {name: row["rivals' time"][name] for name in row[f"rivals of {group}"]}
            row[f"beaten by {group}"] = [name for name, time in times.items() if time["high"] <= 1]
            row[f"level with {group}"] = [
                name for name, time in times.items() if time["low"] <= 1 < time["high"]
            ]


def verdict(rows: Sequence[dict[str, Any]]) -> str:
    """What the comparisons come to, in words."""
    lines = []
    for row in (row for row in rows if row["line"] == CALIBRATED):
        ours, caches = ("; ".join(row[f"beaten by {group}"]) for group in GROUPS)
        lines.append(f"* {row['method']}: " + (f"beaten by {ours}" if ours else "on the frontier of ours"))
        lines[-1] += f"; no slower and closer with a cache: {caches}." if caches else "; no cache beats it."
        level = [name for group in GROUPS for name in row[f"level with {group}"]]
        if level:
            lines[-1] += f" Closer, and whether slower the clock can't tell: {'; '.join(level)}."
        again = (f"{name} {cell(ratio, 2)}" for name, ratio in row["rivals' time"].items())
        lines[-1] += (
            f" What is closer, with its time over the preset's: {'; '.join(again) or 'nothing near'}."
        )
    compared = [row for row in rows if row["above fewer steps"] is not None]
    for words, chosen in (
        ("Closer than fewer steps of equal time", [r for r in compared if r["above fewer steps"]["low"] > 0]),
        ("Less close than these", [r for r in compared if r["above fewer steps"]["high"] < 0]),
    ):
        lines.append(f"* {words}, beyond the interval: {'; '.join(r['method'] for r in chosen) or 'none'}.")
    return "\n".join(lines)


def minutes(pipe: Any, batch: Batch, entries: Sequence[Entry], count: int, steps: int) -> float:
    """About how long all runs will take: by one short run at p, and the methods' shares of a full one."""
    short = Method("fixed p", min(steps, 5))
    run(pipe, batch, short)
    started = time.perf_counter()
    run(pipe, batch, short)
    full = (time.perf_counter() - started) * steps / short.steps
    warm = full * min(1, 5 / steps) * len(entries)
    beside = count * len(entries) * YARDSTICK.steps / steps
    return (warm + full * (beside + count * sum(entry.share for entry in entries))) / 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=embedded.STEPS, help="of the full run")
    parser.add_argument(
        "--prompts", type=int, default=32, help="prompts to compare on; the time grows with them"
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument(
        "--calibration", type=int, default=8, help="prompts for step costs, ratios and presets"
    )
    parser.add_argument("--fewer", type=float, nargs="+", default=[1.15, 1.5, 2, 2.5, 3, 4, 6, 7])
    parser.add_argument("--sizes", type=float, nargs="+", default=[1.5, 2, 3, 4])
    parser.add_argument("--targets", type=float, nargs="+", default=[1.5, 2, 3, 4, 6], help="of the presets")
    parser.add_argument(
        "--presets", type=Path, default=None, help="folder with presets, instead of --targets"
    )
    parser.add_argument("--again", type=int, default=12, help="rounds of a preset and what may beat it")
    parser.add_argument("--stack", type=float, default=2.0, help="speed of the sizes under a cache")
    parser.add_argument(
        "--out", type=Path, default=None, help="JSON; .md, .png and .jsonl are written beside it"
    )
    arguments = parser.parse_args()
    torch.manual_seed(0)
    logging.set_verbosity_error()  # FasterCache says at every run that it is experimental
    model = embedded.load("flux")
    pipe, steps = model.pipeline, arguments.steps
    seen = model.reference(arguments.calibration, seed=CALIBRATION_SEED)[1]
    made = batches(pipe, seen, arguments.batch, seed=14)
    seconds = step_costs(pipe, made, model.adapter, 6)
    caches = settings(magnitude_ratios(pipe, made, steps))
    presets = find_presets(model, arguments, seen)
    entries = [
        Entry("fixed p", Method("fixed p", steps), 1.0),
        *steps_alone(steps, arguments.fewer),
        *policies(model, steps, seconds, arguments.sizes),
        *skipping(model, steps),
        *paper_stack(model, steps, seconds, arguments.stack),
        *forecasting(model, steps),
        *both_together(model, presets),
        *cached(model, steps, seconds, caches, arguments.stack),
    ]
    prompts = model.reference(arguments.prompts, seed=PROMPT_SEED)[1]
    compared = batches(pipe, prompts, arguments.batch, seed=15)
    expected = minutes(pipe, made[0], entries, len(compared), steps)
    print(f"{len(entries)} methods on {len(compared)} batches: about {expected:.0f} minutes", flush=True)
    methods = [entry.method for entry in entries]
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="ddit_ext: the preset is for"
        )  # the short runs that warm up
        outcomes = interleaved_runs(pipe, compared, methods, beside=YARDSTICK)
    each: dict[str, dict[str, list[float]]] = {}
    rows = judge(model, outcomes, methods, prompts, each=each)
    compare(rows, entries, each, arguments.batch)
    time_again(pipe, compared[0], rows, methods, arguments.again)
    order = list(dict.fromkeys(entry.line for entry in entries))
    rows.sort(key=lambda row: (order.index(row["line"]), row["speed"]["mean"]))
    shown = table(rows, {"above fewer steps": ("dB above fewer steps of equal time", 2)})
    shown += f"\n\n{verdict(rows)}\n"
    print(shown)
    if arguments.out:
        plan = {
            "seconds per step": seconds,
            "fine at both ends, stacked": both_ends(steps, seconds, arguments.stack),
            "presets": [preset.to_dict() | {"candidates": None} for preset in presets],
        }
        write_json(arguments.out, {"plan": plan, "rows": rows, "verdict": verdict(rows).splitlines()})
        arguments.out.with_suffix(".md").write_text(shown)
        arguments.out.with_suffix(".jsonl").write_text(
            "".join(json.dumps({"method": name} | _rounded(values)) + "\n" for name, values in each.items())
        )
        lines = [row for row in rows if row["line"] != "fixed p"]
        plot_lines(lines, arguments.out.with_suffix(".png"), ("psnr", "accuracy"), (FEWER, CALIBRATED))


def _rounded(values: dict[str, list[float]]) -> dict[str, list[float]]:
    return {name: np.round(numbers, 4).tolist() for name, numbers in values.items()}


if __name__ == "__main__":
    main()
