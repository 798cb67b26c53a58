"""Where the model calls lie: chosen by each run for itself, or from recorded runs, against the fixed places.

    python benchmarks/studies/adaptive_places.py --keep work/places --out benchmarks/studies/results/adaptive_places.json

Embedded FLUX, 28 levels, the closed form of ForecastScheduler with its defaults; only the places differ. PSNR of pictures
to the run of all steps and to the exact sample (112 UniPC steps for the first prompts, 100 for the others). Rules are tuned on the first prompts and checked on others.

Signals: "third", the third difference of the samples (the second of the outputs, over gaps of any length), which is the
error of a second-order step over the gap to come; "missed", by how much the last slope was not the one that the corrector
found, over the gap to come. A rule is "free" (the gap ends where the signal reaches a tolerance, so that prompts
differ in calls, with the same mean) or "stretched" (the fixed gaps, longer or shorter by how the signal compares with
its mean over prompts; all prompts have the same calls). "Recorded": dynamic programming over the errors of single gaps
on recorded runs, one set of places for all prompts or, with "own", one for each prompt, which only an oracle has.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
import numpy as np
import torch
from _place_rules import SIGNALS, fixed, free, stretched, tuned, usual_signals
from _quality import psnr, with_interval
from _recorded_places import Errors
from _runs import decode
from _solvers import growing
from _timing import write_json
from _walks import GROWTH, STEPS, Place, Prompts, Walk
from ddit_ext._core import ForecastPlan

from ddit_ext import embedded

TARGETS = ("run", "exact")
CALLS, BETWEEN = (9, 7, 11), (7, 8, 9, 10, 11, 12, 13)
WEIGHTS = ((0.1, 0), (1.0, 0), (1.0, 1), (1.0, 2))  # kappa and beta of Errors.best


class Table:
    """Rows as they are made, kept in a file, so that a stopped run goes on."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.rows: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}

    def row(
        self, name: str, prompts: Prompts, calls: int, target: str, place: Callable[[int], Place]
    ) -> dict[str, Any]:
        """PSNR and calls of each prompt."""
        key = f"{name}, target {target}, {calls}"
        if key not in self.rows:
            self.add(key, prompts, prompts.walked(place, calls, target))
        return self.rows[key]

    def add(self, key: str, prompts: Prompts, walks: list[Walk]) -> None:
        pictures = decode(prompts.pipe, torch.stack([walk.x for walk in walks]))
        row = {each: psnr(pictures, prompts.pictures[each]).tolist() for each in TARGETS}
        self.rows[key] = row | {"calls": [len(walk.places) for walk in walks]}
        self._file.write_text(json.dumps(self.rows))
        means = {each: np.mean(self.rows[key][each]) for each in ("calls", *TARGETS)}
        print(f"{key:45}" + "  ".join(f"{each} {mean:.2f}" for each, mean in means.items()), flush=True)


def against(row: dict[str, Any], beside: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """The row's PSNR, and less that of fixed places at the same mean number of calls, prompt by prompt."""
    mean, counts = float(np.mean(row["calls"])), sorted(beside)
    low = min(max(math.floor(mean), counts[0]), counts[-2]) if len(counts) > 1 else counts[0]
    share = mean - low
    high = beside[low + 1] if share else beside[low]
    found = {"calls": mean, "fewest": min(row["calls"]), "most": max(row["calls"])}
    for yardstick in TARGETS:
        fixed_ = (1 - share) * np.array(beside[low][yardstick]) + share * np.array(high[yardstick])
        found[yardstick] = with_interval(np.array(row[yardstick]))
        found[f"{yardstick}, against fixed"] = with_interval(np.array(row[yardstick]) - fixed_)
    return found


def compared(
    sets: dict[str, Prompts], tables: dict[str, Table], calls: int, target: str, keep: Path
) -> list[dict[str, Any]]:
    """The rows of all rules at so many calls, on the prompts that they were not tuned on; "recorded, own" on its own."""
    choosing, found = sets["choosing"], []

    def fixed_rows(which: str, counts: Sequence[int]) -> dict[int, dict[str, Any]]:
        return {
            n: tables[which].row(
                "fixed", sets[which], n, target, lambda _, n=n: fixed(growing(STEPS, n, GROWTH))
            )
            for n in counts
        }

    def compare(name: str, which: str, place: Callable[[int], Place], **more: Any) -> float:
        row = tables[which].row(name, sets[which], calls, target, place)
        beside = fixed_rows(which, BETWEEN if which == "checking" else (calls,))
        told = {"rule": name, "prompts": which, "asked": calls, "target": target}
        found.append(told | more | against(row, beside))
        return found[-1][target]["mean"]

    places = growing(STEPS, calls, GROWTH)
    kept = keep / f"tuned {target} {calls}.json"
    if not kept.exists():
        walks = choosing.walked(lambda _: fixed(places), calls, target)
        tables["choosing"].add(f"fixed, target {target}, {calls}", choosing, walks)
        chosen = {}
        for name, (signal, _) in SIGNALS.items():
            usual = usual_signals(walks, signal)
            first = math.exp(float(np.mean(np.log(usual[2:]))))
            chosen[name] = {
                "usual": usual,
                "tolerance": tuned(choosing, places[:3], signal, calls, target, first),
            }
        kept.write_text(json.dumps(chosen))
    chosen = json.loads(kept.read_text())
    for name, (signal, power) in SIGNALS.items():
        usual, tolerance = chosen[name]["usual"], chosen[name]["tolerance"]
        compare(
            f"stretched by {name}",
            "checking",
            lambda _, s=signal, w=power, u=usual: stretched(places, s, w, u),
            usual=usual[2:],
        )
        compare(
            f"free by {name}",
            "checking",
            lambda _, s=signal, t=tolerance: free(places[:3], s, t),
            tolerance=tolerance,
        )
    errors, everybody = Errors(choosing, target), list(range(choosing.count))
    slope = ForecastPlan(choosing.levels, calls, growth=GROWTH).slope
    tried = []
    for kappa, beta in WEIGHTS:
        recorded = errors.best(calls, slope, kappa, beta, everybody)
        name = f"recorded, kappa {kappa}" + (f", beta {beta}" if beta else "")
        near = compare(name, "choosing", lambda _, p=recorded: fixed(p), places=recorded)
        tried.append((near, kappa, beta, recorded))
    _, kappa, beta, recorded = max(tried)
    chosen = {"kappa": kappa, "beta": beta}
    compare("recorded", "checking", lambda _: fixed(recorded), places=recorded, **chosen)
    own = [errors.best(calls, slope, kappa, beta, [prompt]) for prompt in everybody]
    compare("recorded, own", "choosing", lambda k: fixed(own[k]), places=own, **chosen)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--choosing", type=int, default=16, help="prompts that rules are tuned on")
    parser.add_argument("--checking", type=int, default=32, help="prompts that they are checked on")
    parser.add_argument("--calls", type=int, nargs="+", default=CALLS)
    parser.add_argument("--keep", type=Path, required=True, help="folder for what was run")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.keep.mkdir(parents=True, exist_ok=True)
    model = embedded.load("flux")
    model.pipeline.set_progress_bar_config(disable=True)
    choosing = Prompts("choosing", model, arguments.choosing, (41, 41), 4 * STEPS, arguments.keep)
    checking = Prompts("checking", model, arguments.checking, (9_000_000, 15), 100, arguments.keep)
    sets = {"choosing": choosing, "checking": checking}
    tables = {name: Table(arguments.keep / f"{name}.json") for name in sets}
    results: list[dict[str, Any]] = []
    for calls, target in itertools.product(arguments.calls, TARGETS[::-1]):
        results += compared(sets, tables, calls, target, arguments.keep)
        if arguments.out:
            write_json(arguments.out, results)
    for found in results:
        gains = "  ".join(
            f"{each} {found[f'{each}, against fixed']['mean']:+.2f} [{found[f'{each}, against fixed']['low']:+.2f}, "
            f"{found[f'{each}, against fixed']['high']:+.2f}]"
            for each in TARGETS
        )
        print(
            f"{found['prompts']:9}{found['rule']:26} target {found['target']:5} {found['asked']:3} {found['calls']:5.2f} calls  {gains}"
        )


if __name__ == "__main__":
    main()
