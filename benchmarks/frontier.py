"""Every way to call the model less, on two yardsticks: the run that it shortens, and the exact sample.

    python benchmarks/frontier.py --model flux --keep work/flux --out benchmarks/results/frontier_flux.json
    python benchmarks/frontier.py --model flux --keep work/flux --time --out benchmarks/results/frontier_flux_time.json

PSNR and SSIM of each prompt's picture to the pipeline's own 28 steps and to the exact sample (UniPC, --exact steps; how
far half as many steps are from it is printed); prompt accuracy; Fréchet distance to real scenes; and how straight
stripes and checks are (_stripes.py). Cost is multiply-adds of the transformer's linear layers in full model calls, so
that caches which skip parts of a call count too, and with --time seconds, of the processor and by the wall, methods taking turns.

--keep FOLDER holds the latents of every method: a run that was stopped goes on there. Methods whose package is not
installed (cache_dit) are left out, and said. What is compared stands in _frontier_methods.py.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _frontier_methods import FEWER, FULL, OURS_EXACT, OURS_RUN, Entry, entries
from _frontier_plot import plot
from _quality import frechet_interval, psnr, ssim, with_interval
from _runs import Batch, Method, batches, decode, run
from _solvers import Solver
from _stripes import edge_width, measurable, straightness
from _timing import against_first, write_json
from torch.utils._python_dispatch import TorchDispatchMode

from ddit_ext import embedded

PROMPT_SEED, NOISE_SEED = 9_000_000, 15
COLUMNS = {
    "run": ("PSNR to the run, dB", 1),
    "exact": ("PSNR to the exact sample, dB", 1),
    "nearer": ("above the run, dB", 1),
    "ssim run": ("SSIM to the run", 3),
    "ssim exact": ("SSIM to the exact sample", 3),
    "straight": ("straight stripes", 3),
    "straighter": ("straighter than the run", 3),
    "blurred": ("pixels between colours", 3),
    "accuracy": ("accuracy", 3),
    "frechet": ("Fréchet", 0),
}


class Kept:
    """Latents of methods and their work, by name, a batch at a time, in a folder.

    What was kept while work was counted in another way is run again.
    """

    COUNTED = "linear layers and additions to them"

    def __init__(self, folder: Path, pipe: Any, made: list[Batch]) -> None:
        self.folder, self.pipe, self.made = folder, pipe, made
        folder.mkdir(parents=True, exist_ok=True)

    def latents(self, method: Method) -> torch.Tensor:
        """The latents of all batches; what is missing is run."""
        kept = self._load(method)
        for batch in self.made[len(kept["parts"]) :]:
            with multiply_adds() as counted:
                kept["parts"].append(run(self.pipe, batch, method)[0])
            kept["work"].append(counted.done)
            torch.save(kept, self._file(method))
        return torch.cat(kept["parts"][: len(self.made)])

    def count(self, method: Method) -> int:
        """How many batches of it there are."""
        return min(len(self._load(method)["parts"]), len(self.made))

    def first(self, count: int) -> Kept:
        """The same for the first batches alone."""
        return Kept(self.folder, self.pipe, self.made[:count])

    def row(self, entry: Entry, judged: Callable[[np.ndarray], dict[str, Any]]) -> dict[str, Any]:
        """The measures of a method's pictures; those of the same latents are taken from the folder."""
        latents = self.latents(entry.method)
        seen = [len(latents), float(latents.double().sum()), self.COUNTED]
        file = self._file(entry.method).with_suffix(".json")
        if file.exists() and (kept := json.loads(file.read_text()))["seen"] == seen:
            return kept["row"] | {"asked": entry.calls}
        row = {"method": entry.method.name, "line": entry.line, "asked": entry.calls, "prompts": len(latents)}
        row["calls"] = self.work(entry.method) / self.work(FULL) * FULL.steps
        row |= judged(decode(self.pipe, latents))
        file.write_text(json.dumps({"seen": seen, "row": row}))
        return row

    def work(self, method: Method) -> float:
        """Multiply-adds of all batches."""
        return sum(self._load(method)["work"][: len(self.made)])

    def _load(self, method: Method) -> dict[str, list]:
        file = self._file(method)
        kept = torch.load(file) if file.exists() else {}
        if kept.get("counted") != self.COUNTED:
            kept = {"parts": [], "work": [], "counted": self.COUNTED}
        return kept

    def _file(self, method: Method) -> Path:
        return self.folder / f"{''.join(c if c.isalnum() else '_' for c in method.name)}.pt"


def prepared(
    arguments: argparse.Namespace, prompt_seed: int, noise_seed: int
) -> tuple[embedded.Embedded, list[str], Kept]:
    """The model, the prompts and the runs that the command line asks for: --model, --prompts, --batch and --keep."""
    model = embedded.load(arguments.model)
    prompts = model.reference(arguments.prompts, seed=prompt_seed)[1]
    made = batches(model.pipeline, prompts, arguments.batch, seed=noise_seed)
    return model, prompts, Kept(arguments.keep, model.pipeline, made)


def exact(own: Any, steps: int) -> Method:
    return Method(f"exact, {steps}", steps, scheduler=lambda _: Solver(own, "UniPC"))


class _Products(TorchDispatchMode):
    """Counts the multiply-adds of matrix products: linear layers, additions to them, the library's own ops."""

    def __init__(self) -> None:
        super().__init__()
        self.done = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        op = func.overloadpacket
        if op in (torch.ops.aten.mm, torch.ops.ddit_ext.patch_embed):  # the second factor has as many columns
            self.done += found.numel() * args[1].numel() // found.shape[-1]
        elif op in (torch.ops.aten.addmm, torch.ops.aten.addmm_):
            self.done += found.numel() * args[1].shape[-1]
        elif op is torch.ops.ddit_ext.patch_deembed:
            self.done += args[0].numel() * args[1].numel() // args[0].shape[-1]
        return found


@contextmanager
def multiply_adds() -> Iterator[_Products]:
    """Inside, the multiply-adds of linear layers are counted, an adapter's and a coarse step's own among them.

    Attention is left out: what it costs depends most on how it is computed.
    """
    with _Products() as counted:
        yield counted


def judge(
    model: embedded.Embedded, shown: np.ndarray, prompts: list[str], run_: np.ndarray, exact_: np.ndarray
) -> dict[str, Any]:
    """The measures of one method, each with its interval. shown: pictures or clips, uint8; run_, exact_: at least so many."""
    run_, exact_ = run_[: len(shown)], exact_[: len(shown)]
    judged = model.judge(shown, prompts)
    nearness = psnr(shown, exact_)
    row = {
        "run": with_interval(psnr(shown, run_)),
        "exact": with_interval(nearness),
        "nearer": with_interval(nearness - psnr(run_, exact_)),
        "ssim run": with_interval(ssim(shown, run_)),
        "ssim exact": with_interval(ssim(shown, exact_)),
        "accuracy": with_interval(judged.found),
        "frechet": frechet_interval(judged.features, model.real_features()),
    }
    chosen = measurable(prompts)
    if shown.ndim == 4 and chosen:
        striped = [prompts[index] for index in chosen]
        straight = straightness(shown[chosen], striped)
        row["straight"] = with_interval(straight)
        row["straighter"] = with_interval(straight - straightness(run_[chosen], striped))
        row["blurred"] = with_interval(edge_width(shown[chosen], striped))
    return row


def check_stripes(count: int = 100, seed: int = 7) -> dict[str, Any]:
    """The measure on pictures of known quality: clean scenes, and the same bent by so many pixels or blurred."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    from ddit_ext.embedded import scenes

    drawn, described = scenes.pictures(count, seed)
    prompts = [scene.prompt for scene in described]
    chosen = measurable(prompts)
    clean, prompts = drawn[chosen], [prompts[index] for index in chosen]
    y, x = np.mgrid[: clean.shape[1], : clean.shape[2]].astype(float)

    def bent(picture: np.ndarray, by: float) -> np.ndarray:
        at = [y + by * np.sin(x / 9), x + by * np.sin(y / 7)]
        planes = [
            map_coordinates(picture[..., c].astype(float), at, mode="reflect", order=1) for c in range(3)
        ]
        return np.stack(planes, -1).round().astype(np.uint8)

    made = {"clean": clean}
    made |= {f"bent by {by} px": np.stack([bent(p, by) for p in clean]) for by in (1, 2, 4)}
    made |= {
        f"blurred by {by} px": np.stack([gaussian_filter(p, (by, by, 0)) for p in clean]) for by in (1, 2)
    }
    return {
        name: {
            "straight": with_interval(straightness(pictures, prompts)),
            "blurred": with_interval(edge_width(pictures, prompts)),
        }
        for name, pictures in made.items()
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown, with intervals."""
    columns = {name: shown for name, shown in COLUMNS.items() if name in rows[0]}
    heads = [
        "method",
        "prompts",
        "model calls",
    ]
    heads += [head for head, _ in columns.values()]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [row["method"], str(row["prompts"]), f"{row['calls']:.1f}"]
        cells += [_cell(row.get(name), digits) for name, (_, digits) in columns.items()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def by_calls(rows: list[dict[str, Any]], measure: str, digits: int = 1) -> str:
    """A line a method, a column for each number of model calls that was asked for; * where fewer prompts were run."""
    asked = sorted({row["asked"] for row in rows if row["asked"] and row["line"] != "full"}, reverse=True)
    most = max(row["prompts"] for row in rows)
    lines = [f"| {measure} | {' | '.join(map(str, asked))} |", "|---" * (len(asked) + 1) + "|"]
    for line in dict.fromkeys(row["line"] for row in rows if row["asked"] and row["line"] != "full"):
        found = {row["asked"]: row for row in rows if row["line"] == line}
        cells = []
        for count in asked:
            row = found.get(count)
            star = "*" if row and row["prompts"] < most else ""
            cells.append(f"{row[measure]['mean']:.{digits}f}{star}" if row else "")
        lines.append(f"| {line} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(value: dict[str, float] | None, digits: int) -> str:
    if value is None:
        return ""
    return f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


CLOCKS = {"processor": time.process_time, "wall": time.perf_counter}
"""All cores together, which other programs change little, and what a user waits."""


def time_turns(pipe: Any, batch: Batch, chosen: list[Entry], rounds: int) -> dict[str, dict[str, Any]]:
    """Each method's time over the full run's, by either clock: medians over rounds in which all take a turn."""
    seconds = {clock: {entry.method.name: [] for entry in chosen} for clock in CLOCKS}
    for number in range(-1, rounds):  # the first round warms up
        for entry in chosen:
            began = {clock: now() for clock, now in CLOCKS.items()}
            run(pipe, batch, entry.method)
            if number >= 0:
                for clock, now in CLOCKS.items():
                    seconds[clock][entry.method.name].append(now() - began[clock])
    found = {clock: against_first(taken) for clock, taken in seconds.items()}
    return {
        entry.method.name: {
            clock: {
                "mean": rows[entry.method.name]["ratio"],
                "low": rows[entry.method.name]["ratio_low"],
                "high": rows[entry.method.name]["ratio_high"],
                "seconds": rows[entry.method.name]["median_s"],
            }
            for clock, rows in found.items()
        }
        for entry in chosen
    }


def scene(
    pipe: Any, kept: Kept, compared: list[Entry], prompts: list[str], run_: np.ndarray, exact_: np.ndarray
) -> dict[str, np.ndarray]:
    """One prompt in several ways: of those with stripes or checks the one whose 28 steps are furthest from exact."""
    chosen = measurable(prompts)
    index = chosen[int(np.argmin(psnr(run_[chosen], exact_[chosen])))]
    latents = {
        entry.line: kept.latents(entry.method)
        for entry in compared
        if entry.calls == 11 and entry.line in (OURS_RUN, OURS_EXACT, FEWER, "UniPC, placed")
    }
    drawn = {line: decode(pipe, made[index : index + 1])[0] for line, made in latents.items()}
    return {
        "all 28 steps": run_[index],
        "ddit_ext, 11 calls": drawn[OURS_RUN],
        "11 plain steps": drawn[FEWER],
        "exact: 200 steps": exact_[index],
        'ddit_ext "exact", 11': drawn[OURS_EXACT],
        "UniPC, 11 calls": drawn["UniPC, placed"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("flux", "wan"), default="flux")
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--exact", type=int, default=200, help="steps of the exact sample")
    parser.add_argument("--calls", type=int, nargs="+", default=None, help="model calls of 28 to compare at")
    parser.add_argument("--only", nargs="+", default=None, help="lines to run; the full run always is")
    parser.add_argument(
        "--keep", type=Path, required=True, help="folder for latents; a stopped run goes on there"
    )
    parser.add_argument(
        "--kept-only", action="store_true", help="run nothing: what --keep has, for as many prompts"
    )
    parser.add_argument(
        "--time",
        action="store_true",
        help="measure the time of the first batch, by two clocks, and nothing else",
    )
    parser.add_argument("--rounds", type=int, default=5, help="of --time")
    parser.add_argument(
        "--out", type=Path, default=None, help="JSON; .md and, without --only, .png beside it"
    )
    parser.add_argument("--redraw", type=Path, help="draw this picture from --out's rows; runs what it shows")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model, prompts, kept = prepared(arguments, PROMPT_SEED, NOISE_SEED)
    pipe, made = model.pipeline, kept.made
    calls = arguments.calls or {"flux": [15, 11, 9, 7], "wan": [14, 9]}[arguments.model]
    compared = [
        entry
        for entry in entries(model, calls)
        if arguments.only is None or entry.line in arguments.only or entry.method is FULL
    ]
    if arguments.time:
        times = time_turns(pipe, made[0], compared, arguments.rounds)
        for name, value in times.items():
            print(f"{name:40} {' '.join(f'{clock} {_cell(each, 3)}' for clock, each in value.items())}")
        if arguments.out:
            write_json(arguments.out, times)
        return
    exact_ = decode(pipe, kept.latents(exact(pipe.scheduler, arguments.exact)))
    run_ = decode(pipe, kept.latents(FULL))
    if arguments.redraw:
        rows = json.loads(arguments.out.read_text())["results"]["rows"]
        plot(rows, arguments.redraw, scene(pipe, kept, compared, prompts, run_, exact_))
        return
    half, first = exact(pipe.scheduler, arguments.exact // 2), kept.first(1)
    converged = None
    if first.count(half) or not arguments.kept_only:
        shown = decode(pipe, first.latents(half))
        converged = with_interval(psnr(shown, exact_[: len(shown)]))
        print(f"half as many steps are {_cell(converged, 1)} dB from the exact sample", flush=True)
    rows = []
    if arguments.kept_only:
        compared = [entry for entry in compared if kept.count(entry.method)]
    for entry in compared:
        here = kept.first(kept.count(entry.method)) if arguments.kept_only else kept
        row = here.row(entry, lambda shown: judge(model, shown, prompts[: len(shown)], run_, exact_))
        rows.append(row)
        print(table([row]).splitlines()[-1], flush=True)
    print(table(rows))
    if arguments.out:
        checked = check_stripes() if arguments.model == "flux" else None
        write_json(
            arguments.out, {"converged": converged, "stripes on known pictures": checked, "rows": rows}
        )
        short = "\n".join(by_calls(rows, measure) for measure in ("run", "exact", "nearer"))
        arguments.out.with_suffix(".md").write_text(f"{short}\n{table(rows)}")
        if arguments.only:
            return
        flat = run_.ndim == 4
        above = scene(pipe, kept, compared, prompts, run_, exact_) if flat else None
        plot(rows, arguments.out.with_suffix(".png"), above)


if __name__ == "__main__":
    main()
