"""Coarse calls first, full calls after them, forecasts between: the strategy as a user patches it, against its parts.

    python benchmarks/studies/early_coarse.py --model flux --keep work/early --out benchmarks/studies/results/early_coarse_flux.json
    python benchmarks/studies/early_coarse.py --alone --keep work/few --out benchmarks/studies/results/few_calls_flux.json

`Forecast(calls=n, sizes=[2, 2, 1, ...])` with the embedded adapter, beside forecasts alone, fewer plain steps, and UniPC at the places of
a forecast's calls. Each
picture is judged as the paper judges (what the prompt asked for, straight stripes) and by PSNR to the run of all steps;
runs that aim at the ODE's own sample by PSNR to that, on half of the prompts. What a way costs is counted in full calls, at several ratios of a
coarse call's cost to a full one's, this machine's measured among them.

--keep FOLDER holds latents, and a run that was stopped goes on there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
import diffusers
import numpy as np
import torch
from _frontier_methods import cache_dit_entries, placed
from _quality import bootstrap, psnr, with_interval
from _runs import Method, decode, run
from _stripes import measurable, straightness
from _timing import write_json
from coarse_then_forecast import RATIOS
from frontier import exact, prepared
from paper_measures import FULL

from ddit_ext import Forecast, embedded
from ddit_ext.fidelity import temporal_fidelity

STEPS = embedded.STEPS
EXACT_STEPS = 56
CALLS = (2, 3, 4, 5, 6, 7, 8, 11)
BUDGETS = (12.0, 10.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0)  # times the speed of all steps at scale 1
BLOCKS = (57, 30)
"""Blocks of the models of RATIOS (Wan: 2.1 1.3B)."""
PROMPT_SEED, NOISE_SEED = 13_000_000, 33
HERE = f"{torch.get_num_threads()} CPU threads"
KINDS = {
    "steps": "fewer steps",
    "UniPC": "UniPC, placed",
    "forecast": "forecast alone",
    "cache": "cache-dit, placed",
    "coarse": "coarse calls first",
}


def leads(numbers: Sequence[int]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """How many calls, and the scales of those that begin: one, a third, half or two thirds of them; 2, 4, or both."""
    for calls in numbers:
        for many in sorted({1, calls // 3, calls // 2, 2 * calls // 3} - {0}):
            if calls - many >= 2:
                yield from ((calls, lead) for lead in dict.fromkeys([(2,) * many, (4,) * many, both(many)]))


def both(many: int) -> tuple[int, ...]:
    """The first half at scale 4, the rest at scale 2."""
    return (4,) * (many // 2) + (2,) * (many - many // 2)


def ways(adapter: Path | None, target: str, numbers: Sequence[int], led: Sequence[int]) -> list[Method]:
    """Forecasts of so many calls alone; then, with an adapter, those of ``led`` calls that begin with coarse ones."""
    found = []
    for calls in numbers:
        found.append(Method(named(calls, (), target), STEPS, {"schedule": Forecast(calls, target=target)}))
    for calls, lead in () if adapter is None else leads(led):
        sizes = [*lead, *[1] * (calls - len(lead))]
        strategy = Forecast(calls, target=target, sizes=sizes)
        found.append(Method(named(calls, lead, target), STEPS, {"adapter": adapter, "schedule": strategy}))
    return found


def others(numbers: Sequence[int]) -> list[Method]:
    """Fewer steps of the pipeline's own sampler, and UniPC at the places that a forecast would have."""
    steps = [Method(f"{calls} steps", calls) for calls in numbers]
    return [*steps, *(placed("UniPC", calls).method for calls in numbers)]


def caches(pipe: Any, numbers: Sequence[int]) -> list[Method]:
    """cache-dit with TaylorSeer, whole calls at a forecast's places; the others compute the first block alone."""
    entries = cache_dit_entries(pipe, list(numbers))
    return [entry.method for entry in entries if entry.line == KINDS["cache"]]


def cache_cost(method: Method, done: float) -> dict[str, float]:
    """Full calls that cache-dit's run costs: ``done`` here by multiply-adds; in a larger model its first block is less."""
    whole = int(method.name.rsplit(", ")[-1])
    large = {name: whole + (STEPS - whole) / blocks for name, blocks in zip(RATIOS, BLOCKS, strict=True)}
    return {HERE: done} | large


def kind_of(method: Method) -> str:
    if method.patch is not None:
        return "forecast"
    if method.around is not None:
        return "cache"
    return "steps" if method.scheduler is None else "UniPC"


def named(calls: int, lead: tuple[int, ...], target: str) -> str:
    coarse = f", first {len(lead)} at {' '.join(map(str, lead))}" if lead else ""
    return f"{calls} calls{coarse}{' (exact)' if target == 'exact' else ''}"


def sizes_of(method: Method) -> list[int]:
    """The scale of every call."""
    if method.patch is None:
        return [1] * (method.steps if method.scheduler is None else int(method.name.rsplit(", ")[-1]))
    return method.patch["schedule"].computed_scales(STEPS)


def measured_ratios(pipe: Any, adapter: Path, made: list, rounds: int) -> dict[int, float]:
    """How many coarse calls take as long as a full one here, one picture at a time: medians of calls that take turns."""
    seconds: dict[int, list[float]] = {1: [], 2: [], 4: []}
    single = replace(
        made[0], prompts=made[0].prompts[:1], inputs={k: v[:1] for k, v in made[0].inputs.items()}
    )
    for number in range(rounds + 1):
        turns = [list(seconds)[(number + step) % len(seconds)] for step in range(9)]
        method = Method("turns", len(turns), {"adapter": adapter, "schedule": turns})
        done = run(pipe, single, method)[2]["steps"]
        for step in done if number else ():  # the first round makes weights ready
            seconds[step["scale"]].append(step["seconds"])
    medians = {scale: float(np.median(taken)) for scale, taken in seconds.items()}
    return {scale: medians[1] / taken for scale, taken in medians.items()}


def frontier(rows: list[dict[str, Any]], ratios: str, measure: str) -> list[dict[str, Any]]:
    """For each budget the best of each kind; None where none is as fast."""
    found = []
    for budget in BUDGETS:
        line: dict[str, Any] = {"budget": budget}
        for kind in KINDS:
            fitting = [
                row
                for row in rows
                if row["kind"] == kind and measure in row and STEPS / row["cost"][ratios] >= budget - 1e-9
            ]
            line[kind] = max(fitting, key=lambda row: worth(row, measure), default=None)
        found.append(line)
    return found


def worth(row: dict[str, Any], measure: str) -> float:
    """The measure's mean, so that more is better."""
    return row[measure]["mean"] * (-1 if measure == "flicker" else 1)


def table(rows: list[dict[str, Any]], ratios: dict[str, dict[int, float]]) -> str:
    """The frontiers in Markdown. "+", "-": the interval of the difference to the best other, same prompts, leaves out 0."""
    parts, kinds = [], [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    measures = {"run": "PSNR to the run, dB", "exact": "PSNR to the exact sample, dB", "found": "prompt found",
                "straight": "straight stripes", "flicker": "flicker, grey levels (less is better)"}  # fmt: skip
    for name, costs in ratios.items():
        for measure, head in measures.items():
            if not any(measure in row for row in rows):
                continue
            digits = 1 if measure in ("run", "exact", "flicker") else 3
            parts += [
                f"\n{head}; {costs[2]:.1f} calls at scale 2, or {costs[4]:.1f} at scale 4, cost a full one ({name})\n",
                f"| at least | {' | '.join(KINDS[kind] for kind in kinds)} |",
                "|---" * (len(kinds) + 1) + "|",
            ]
            for line in frontier(rows, name, measure):
                cells = []
                for kind in kinds:
                    row = line[kind]
                    if row is None:
                        cells.append("")
                        continue
                    star = starred(line, measure) if kind == "coarse" else ""
                    cells.append(
                        f"{row[measure]['mean']:.{digits}f}{star} ({row['method'].removesuffix(' (exact)')})"
                    )
                parts.append(f"| {line['budget']:g}x | {' | '.join(cells)} |")
    return "\n".join(parts).strip() + "\n"


def starred(line: dict[str, Any], measure: str) -> str:
    """Whether coarse calls first are apart from the best of the others: "+" better, "-" worse, "" not told apart."""
    rivals = [line[kind] for kind in tuple(KINDS)[:-1] if line[kind] is not None]
    if not rivals:
        return ""
    best = max(rivals, key=lambda row: worth(row, measure))
    more = np.subtract(line["coarse"]["each"][measure], best["each"][measure])
    more = -more if measure == "flicker" else more
    low, high = bootstrap(lambda index: more[index].mean(), len(more))
    return " +" if low > 0 else " -" if high < 0 else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="flux", choices=("flux", "flux-128", "wan"))
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--calls", type=int, nargs="+", default=CALLS)
    parser.add_argument("--alone", action="store_true", help="no coarse calls, forecasts alone")
    parser.add_argument(
        "--coarse-calls",
        type=int,
        nargs="+",
        default=None,
        help="of those with coarse calls; default: --calls",
    )
    parser.add_argument("--cache-dit", action="store_true", help="beside them, where it is installed")
    parser.add_argument("--targets", nargs="+", default=("run", "exact"), choices=("run", "exact"))
    parser.add_argument(
        "--rounds", type=int, default=9, help="runs of 9 steps that time a call of each scale"
    )
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model, prompts, kept = prepared(arguments, PROMPT_SEED, NOISE_SEED)
    pipe, made = model.pipeline, kept.made
    wanted, converged = {"run": decode(pipe, kept.latents(FULL))}, None
    if "exact" in arguments.targets:
        wanted["exact"] = decode(pipe, kept.latents(exact(pipe.scheduler, EXACT_STEPS)))
        more = decode(pipe, kept.first(1).latents(exact(pipe.scheduler, 2 * EXACT_STEPS)))
        converged = with_interval(psnr(more, wanted["exact"][: len(more)]))
        print(f"twice as many steps are {converged['mean']:.1f} dB from the exact sample", flush=True)
    ratios = {HERE: measured_ratios(pipe, model.adapter, made, arguments.rounds)} | RATIOS
    print(f"{HERE}: {ratios[HERE]}", flush=True)

    rows: list[dict[str, Any]] = []
    for target in arguments.targets:
        where = kept if target == "run" else kept.first((len(made) + 1) // 2)
        for method in [
            FULL,
            *others(arguments.calls),
            *(caches(pipe, arguments.calls) if arguments.cache_dit else ()),
            *ways(
                None if arguments.alone else model.adapter,
                target,
                arguments.calls,
                arguments.coarse_calls or arguments.calls,
            ),
        ]:
            sizes = sizes_of(method)
            shown = decode(pipe, where.latents(method))
            each = {target: psnr(shown, wanted[target][: len(shown)])}
            if target == "run":
                each["found"] = model.judge(shown, prompts).found
                if arguments.model == "flux":
                    chosen = measurable(prompts)
                    each["straight"] = straightness(shown[chosen], [prompts[i] for i in chosen])
                if shown.ndim == 5:
                    each["flicker"] = temporal_fidelity(shown, wanted["run"]).flicker
            kind = "coarse" if max(sizes) > 1 else kind_of(method)
            row = {"method": method.name, "kind": kind, "sizes": sizes}
            row["cost"] = {name: sum(1 / given[size] for size in sizes) for name, given in ratios.items()}
            if kind == "cache":
                row["cost"] = cache_cost(method, STEPS * where.work(method) / where.work(FULL))
            row |= {name: with_interval(values) for name, values in each.items()}
            row["each"] = {
                name: [round(float(value), 4) for value in values] for name, values in each.items()
            }
            rows.append(row)
            costs = " / ".join(f"{cost:.2f}" for cost in row["cost"].values())
            print(
                f"{method.name}: cost {costs}", *(f"{k} {v.mean():.3f}" for k, v in each.items()), flush=True
            )
    print(table(rows, ratios))
    if arguments.out:
        head = {
            "date": date.today().isoformat(),
            "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
            "prompts": arguments.prompts,
            "exact": {"steps": EXACT_STEPS, "to twice as many": converged},
            "ratios": ratios,
        }
        shown_rows = [{name: value for name, value in row.items() if name != "each"} for row in rows]
        write_json(arguments.out, head | {"rows": shown_rows})
        arguments.out.with_suffix(".md").write_text(table(rows, ratios))


if __name__ == "__main__":
    main()
