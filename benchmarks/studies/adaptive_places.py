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
from _quality import psnr, with_interval
from _runs import Method, batches, decode, run
from _solvers import Solver, growing
from _timing import write_json
from ddit_ext._core import ForecastPlan
from forecast_variants import Watched

from ddit_ext import embedded

STEPS, GROWTH, TARGETS = 28, 1.75, ("run", "exact")
CALLS, BETWEEN = (9, 7, 11), (7, 8, 9, 10, 11)
WEIGHTS = ((0.1, 0), (1.0, 0), (1.0, 1), (1.0, 2))  # kappa and beta of Errors.best
Place = Callable[["Walk"], int]


class _Begun(Exception):
    pass


class Prompts:
    """Prompts with their noise, the pictures to compare with, and the model as a function of sample and noise level."""

    def __init__(
        self, name: str, model: embedded.Embedded, count: int, seeds: tuple[int, int], exact: int, keep: Path
    ):
        self.pipe = model.pipeline
        self.made = batches(self.pipe, model.reference(count, seed=seeds[0])[1], 8, seed=seeds[1])
        self._calls = [self._begin(batch) for batch in self.made]
        self.levels = self.pipe.scheduler.sigmas.double().tolist()
        self._keep, self._name = keep, name
        full = self.kept("full", lambda: self._all(Method("full", STEPS)))
        found = self.kept(
            "exact", lambda: self._all(Method("exact", exact, scheduler=lambda own: Solver(own, "UniPC")))
        )
        self.pictures = {"run": decode(self.pipe, full), "exact": decode(self.pipe, found)}
        self.count = len(full)

    def kept(self, what: str, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        file = self._keep / f"{self._name} {what}.pt"
        if not file.exists():
            torch.save(make(), file)
        return torch.load(file)

    def _all(self, method: Method) -> torch.Tensor:
        return torch.cat([run(self.pipe, batch, method)[0] for batch in self.made])

    def _begin(self, batch: Any) -> dict[str, Any]:
        """What the pipeline gives the transformer at its first step of all."""
        found: dict[str, Any] = {}

        def begun(module: Any, given: tuple, told: dict[str, Any]) -> None:
            found.update(told)
            raise _Begun

        hook = self.pipe.transformer.register_forward_pre_hook(begun, with_kwargs=True)
        try:
            run(self.pipe, batch, Method("begin", STEPS))
        except _Begun:
            pass
        finally:
            hook.remove()
        return found

    @torch.inference_mode()
    def velocities(
        self, number: int, rows: list[int], x: torch.Tensor, sigmas: Sequence[float]
    ) -> torch.Tensor:
        """The model's outputs for some prompts of a batch, each at a level of its own."""
        told = {
            name: value[rows]
            if isinstance(value, torch.Tensor) and name not in ("txt_ids", "img_ids")
            else value
            for name, value in self._calls[number].items()
        }
        told |= {"hidden_states": x, "timestep": torch.tensor(sigmas, dtype=x.dtype)}
        return self.pipe.transformer(**told)[0]

    def path(self, target: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples [level, prompt, ...] of the run of all steps or of the exact one, and the model's outputs there."""
        solver, every = ("Euler", 1) if target == "run" else ("UniPC", 4)

        def recorded() -> torch.Tensor:
            parts = []
            for batch in self.made:
                watched = Watched(self.pipe.scheduler, every, solver)
                run(self.pipe, batch, Method("path", every * STEPS, scheduler=lambda _, w=watched: w))
                parts.append(torch.stack(watched.path))
            return torch.cat(parts, 1)

        def outputs() -> torch.Tensor:
            found, first = [], 0
            for number, batch in enumerate(self.made):
                rows = list(range(len(batch.prompts)))
                here = path[:, first : first + len(rows)]
                steps = [
                    self.velocities(number, rows, here[k], [self.levels[k]] * len(rows)) for k in range(STEPS)
                ]
                found, first = [*found, torch.stack(steps)], first + len(rows)
            return torch.cat(found, 1)

        path = self.kept(f"path {target}", recorded)
        if target == "run":  # its steps are the model's outputs
            return path, path.diff(dim=0) / torch.tensor(self.levels).diff()[:, None, None, None]
        return path, self.kept(f"outputs {target}", outputs)

    def walked(
        self, place: Callable[[int], Place], calls: int, target: str, only: int | None = None
    ) -> list[Walk]:
        """Runs of all prompts, with the settings of so many calls; place: a prompt's number -> its places.

        only: so many batches.
        """
        walks, first = [], 0
        for number, batch in enumerate(self.made[:only]):
            count = len(batch.prompts)
            here = [
                Walk(self.levels, calls, target, x, place(first + k))
                for k, x in enumerate(batch.inputs["latents"])
            ]
            while rows := [k for k in range(count) if here[k].level < STEPS]:
                x = torch.stack([here[k].x for k in rows])
                outputs = self.velocities(number, rows, x, [self.levels[here[k].level] for k in rows])
                for k, v in zip(rows, outputs, strict=True):
                    here[k].step(v.float())
            walks, first = walks + here, first + count
        return walks


class Walk:
    """One prompt's run by the closed form, whose next call is wherever `place` says.

    Attributes:
        places: levels of the calls so far; outputs: the model's there.
        missed: root of the mean square of the slope that the last gap had beyond the one that it followed.
    """

    def __init__(self, levels: list[float], calls: int, target: str, x: torch.Tensor, place: Place) -> None:
        self.levels, self.target, self.x, self._place = levels, target, x.float(), place
        self.slope = ForecastPlan(levels, calls, growth=GROWTH).slope
        self.level, self.places, self.outputs = 0, [], []
        self.missed, self._kept = 0.0, None

    def step(self, v: torch.Tensor) -> None:
        """Cross the gap after the call at `level`, whose output is v."""
        d = None
        if self.outputs:
            d = (v - self.outputs[-1]) / (self.levels[self.level] - self.levels[self.places[-1]])
            before, share, weight = self._kept
            bent = d if before is None else d - share * before
            self.missed = rms(bent)
            self.x = self.x + weight * bent
        self.places.append(self.level)
        self.outputs.append(v)
        end = self._place(self)
        weight, share = gap_weight(self.levels, self.level, end, self.target), self.slope
        if self.target == "exact":
            share *= (self.levels[end] / self.levels[self.level]) ** 2
        self.x = self.x + (self.levels[end] - self.levels[self.level]) * v
        if d is not None:
            self.x = self.x + share * weight * d
        self._kept, self.level = (d, share, weight), end


def gap_weight(levels: Sequence[float], i: int, e: int, target: str) -> float:
    """What a line of slope 1 adds over a gap."""
    if target == "exact":
        return (levels[e] - levels[i]) ** 2 / 2
    return sum((levels[j + 1] - levels[j]) * (levels[j] - levels[i]) for j in range(i, e))


def rms(values: torch.Tensor) -> float:
    return float(values.square().mean().sqrt())


# ---- Signals and rules --------------------------------------------------------------------------------------------


def third(walk: Walk, end: int) -> float:
    """The error of a second-order step from the last call to `end`."""
    at = [walk.levels[place] for place in walk.places[-3:]]
    v = walk.outputs[-3:]
    bend = ((v[2] - v[1]) / (at[2] - at[1]) - (v[1] - v[0]) / (at[1] - at[0])) / (at[2] - at[0])
    gap, before = walk.levels[end] - at[2], at[2] - at[1]
    return rms(bend) * abs(gap**3 / 3 + gap**2 * before / 2)


def missed(walk: Walk, end: int) -> float:
    """What a slope as wrong as the last one is worth from the last call to `end`."""
    return walk.missed * (walk.levels[end] - walk.levels[walk.places[-1]]) ** 2 / 2


SIGNALS = {"third": (third, 3), "missed": (missed, 2)}


def fixed(places: Sequence[int]) -> Place:
    ends = [*places[1:], STEPS]
    return lambda walk: ends[len(walk.places) - 1]


def free(opening: Sequence[int], signal: Callable[[Walk, int], float], tolerance: float) -> Place:
    """After the opening, the longest gap whose signal is within the tolerance."""

    def place(walk: Walk) -> int:
        if len(walk.places) < len(opening):
            return opening[len(walk.places)]
        end = walk.level + 1
        while end < STEPS and signal(walk, end + 1) <= tolerance:
            end += 1
        return end

    return place


def stretched(
    places: Sequence[int], signal: Callable[[Walk, int], float], power: int, usual: Sequence[float]
) -> Place:
    """The fixed gaps, changed by how the signal compares with its usual value at that call; the rest is spread anew."""
    ends = [*places, STEPS]

    def place(walk: Walk) -> int:
        k = len(walk.places) - 1
        if k + 1 == len(places):
            return STEPS
        if k < 2:
            return ends[k + 1]
        planned = (ends[k + 1] - ends[k]) * (STEPS - walk.level) / (STEPS - ends[k])
        seen = signal(walk, min(STEPS, walk.level + max(1, round(planned))))
        change = (usual[k] / max(seen, 1e-12)) ** (1 / power)
        end = walk.level + max(1, round(planned * min(max(change, 0.5), 2.0)))
        return min(end, STEPS - (len(places) - 1 - k))  # the calls to come need a level each

    return place


def usual_signals(walks: list[Walk], signal: Callable[[Walk, int], float]) -> list[float]:
    """At each call of finished runs at fixed places, the geometric mean over prompts of the signal for the gap after it."""
    found = [float("nan")] * 2
    for k in range(2, len(walks[0].places)):
        seen = []
        for walk in walks:
            past = _Past(walk, k + 1)
            seen.append(math.log(max(signal(past, [*walk.places, STEPS][k + 1]), 1e-12)))
        found.append(math.exp(float(np.mean(seen))))
    return found


class _Past:
    """A finished run as it was after so many calls."""

    def __init__(self, walk: Walk, calls: int) -> None:
        self.levels, self.places, self.outputs = walk.levels, walk.places[:calls], walk.outputs[:calls]
        i, e = self.places[-2:]
        d = (self.outputs[-1] - self.outputs[-2]) / (walk.levels[e] - walk.levels[i])
        share = walk.slope * ((walk.levels[e] / walk.levels[i]) ** 2 if walk.target == "exact" else 1.0)
        if calls > 2:
            h, v = walk.levels[i] - walk.levels[self.places[-3]], self.outputs[-2] - self.outputs[-3]
            d = d - share * v / h
        self.missed = rms(d)


def tuned(
    choosing: Prompts, opening: Sequence[int], signal: Any, calls: int, target: str, first: float
) -> float:
    """The tolerance at which the mean number of calls is near `calls`: a secant over its logarithm, three runs of 8 prompts."""
    at, found = math.log(first), []
    for _ in range(3):
        tolerance = math.exp(at)
        walks = choosing.walked(lambda _, t=tolerance: free(opening, signal, t), calls, target, only=1)
        found.append((at, float(np.mean([len(walk.places) for walk in walks]))))
        print(f"    tolerance {tolerance:.3g}: {found[-1][1]:.2f} calls", flush=True)
        slope = -calls / 3
        if len(found) > 1 and found[-1][0] != found[-2][0]:
            slope = (found[-1][1] - found[-2][1]) / (found[-1][0] - found[-2][0])
        at += min(max((calls - found[-1][1]) / min(slope, -0.5), -2.0), 2.0)
    return math.exp(min(found, key=lambda each: abs(each[1] - calls))[0])


# ---- Places from recorded runs -------------------------------------------------------------------------------------


class Errors:
    """Mean squares of what single gaps miss on recorded runs, [prompt], before and after the correction."""

    def __init__(self, choosing: Prompts, target: str) -> None:
        path, outputs = choosing.path(target)
        self.levels, self.target = choosing.levels, target
        self.x, self.v = path.flatten(2).double(), outputs.flatten(2).double()
        self._seen: dict[tuple, np.ndarray] = {}

    def _missing(self, i: int, e: int) -> torch.Tensor:
        return (self.levels[e] - self.levels[i]) * self.v[i] - (self.x[e] - self.x[i])

    def before(self, p: int, i: int, e: int, slope: float) -> np.ndarray:
        if ("before", p, i, e) not in self._seen:
            off = self._missing(i, e)
            if p < i:
                share = slope * ((self.levels[e] / self.levels[i]) ** 2 if self.target == "exact" else 1.0)
                weight = gap_weight(self.levels, i, e, self.target)
                off = off + share * weight * (self.v[i] - self.v[p]) / (self.levels[i] - self.levels[p])
            self._seen["before", p, i, e] = off.square().mean(-1).numpy()
        return self._seen["before", p, i, e]

    def after(self, i: int, e: int) -> np.ndarray:
        if ("after", i, e) not in self._seen:
            weight = gap_weight(self.levels, i, e, self.target)
            off = self._missing(i, e) + weight * (self.v[e] - self.v[i]) / (self.levels[e] - self.levels[i])
            self._seen["after", i, e] = off.square().mean(-1).numpy()
        return self._seen["after", i, e]

    def best(
        self, calls: int, slope: float, kappa: float, beta: int, prompts: list[int], longest: int = 12
    ) -> list[int]:
        """The places whose gaps miss least in sum.

        kappa: weight of what is missed before the correction. beta: what is missed at a noise level counts by this power
        of it, since early errors grow.
        """

        def cost(p: int, i: int, e: int) -> float:
            missed = self.before(p, i, e, slope)[prompts].mean()
            if e < STEPS:
                missed = kappa * missed + self.after(i, e)[prompts].mean()
            return missed * self.levels[i] ** (2 * beta)

        best = {(0, 0): (0.0, [0])}
        for _ in range(calls - 1):
            new: dict[tuple[int, int], tuple[float, list[int]]] = {}
            for (p, i), (sum_, places) in best.items():
                for e in range(i + 1, min(STEPS, i + longest + 1)):
                    here = sum_ + cost(p, i, e)
                    if here < new.get((i, e), (math.inf,))[0]:
                        new[i, e] = (here, [*places, e])
            best = new
        ends = [
            (sum_ + cost(p, i, STEPS), places)
            for (p, i), (sum_, places) in best.items()
            if STEPS - i <= longest
        ]
        return min(ends)[1]


# ---- The comparison -------------------------------------------------------------------------------------------------


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
    for calls, target in itertools.product(CALLS, TARGETS[::-1]):
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
