"""The paper's own question on the embedded FLUX: are the pictures as good, not, are they the same?

    python benchmarks/studies/paper_measures.py --keep work/paper --out benchmarks/studies/results/paper_measures.json
    python benchmarks/studies/paper_measures.py --time --out benchmarks/studies/results/paper_measures_time.json

The paper's two headline rows (arXiv 2602.16968: dynamic sizes, and dynamic sizes with TeaCache), beside fewer steps and
forecasts of equal work; then forecasts whose first calls are coarse, beside forecasts alone, UniPC at a forecast's places and
fewer steps of the next smaller and the next larger work. All are judged as it judges: by what the prompt asked for, and by the Fréchet distance to real pictures.
Its networks can't be had here, so the embedded classifier stands in, and beside it a network that was never trained
(`Textures`) and how straight stripes and how wide edges are. Two known-bad ways, 7 Euler steps and every step at scale 4,
are the measures' controls: what does not tell them from the full run tells nothing.

Work is multiply-adds of the transformer's and the adapter's linear layers; the rules' thresholds are bisected for it on
other prompts.
--keep FOLDER holds latents, and a run that was stopped goes on there. --time measures seconds instead, of one prompt, by coarse calls
first and their rivals in turns.
"""

from __future__ import annotations

import argparse
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
import diffusers
import numpy as np
import torch
from _frontier_methods import placed
from _quality import bootstrap, frechet_interval, psnr, with_interval
from _runs import Batch, Method, batches, decode, run
from _stripes import edge_width, measurable, straightness
from _timing import interleaved, write_json
from frontier import Kept, multiply_adds
from torch import nn

from ddit_ext import Forecast, TeaCache, Threshold, embedded
from ddit_ext.embedded.classifier import frechet_distance

STEPS = embedded.STEPS
SCALES = (1, 2, 4)
DYNAMIC, WITH_TEACACHE = (1.5, 2.2), 3.5  # times the speed of all steps at scale 1, in the paper
EARLY = ((4, 2), (6, 4), (6, 3), (8, 4))
"""So many calls, and how many of them, the first ones, are at scale 2 (see early_coarse.py)."""

COARSE_WORK = 0.4  # of a full call's multiply-adds, at scale 2 with the shipped adapter
BOTH = f"dynamic and TeaCache, {WITH_TEACACHE:g}x"
BOUNDS = {"Threshold": (3e-4, 1.0), "TeaCache": (1e-3, 4.0)}  # from never to always
ROUNDS = 7
TURNS = 25  # of --time
SHOWN = 10
HALVES = 200
CALIBRATION_SEED, PROMPT_SEED, REAL_SEED, NOISE_SEED = 4_000_000, 11_000_000, 2_000_000, 21
FULL = Method("full, 28 steps", STEPS)
COLUMNS = {
    "accuracy": ("prompt found", 3),
    "frechet": ("Fréchet, classifier", 1),
    "textures": ("Fréchet, untrained network", 3),
    "straight": ("straight stripes", 3),
    "blurred": ("pixels between colours", 3),
    "run": ("PSNR to the full run, dB", 1),
}


class Textures(nn.Module):
    """64 numbers a picture from three untrained convolutions: how much each channel varies over the picture.

    Features of random networks compare pictures of any kind (Naeem et al., arXiv 2002.09797).
    """

    def __init__(self, seed: int = 5) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList(nn.Conv2d(c, d, 3, bias=False) for c, d in ((3, 16), (16, 24), (24, 24)))
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, generator=generator)

    @torch.no_grad()
    def forward(self, pictures: np.ndarray) -> np.ndarray:
        """uint8 ``[n, H, W, 3]`` -> float64 ``[n, 64]``."""
        signal, found = torch.from_numpy(pictures).movedim(-1, 1) / 127.5 - 1, []
        for layer in self.layers:
            signal = layer(signal)
            found.append(signal.std((2, 3)))
            signal = nn.functional.avg_pool2d(signal.relu(), 2)
        return torch.cat(found, 1).double().numpy()


def bisected(
    pipe: Any,
    made: list[Batch],
    target: float,
    bounds: tuple[float, float],
    method: Callable[[float], Method],
) -> float:
    """The value between ``bounds`` whose runs do the ``target``-th part of the full run's work."""

    def work(each: Method) -> int:
        with multiply_adds() as counted:
            for batch in made:
                run(pipe, batch, each)
        return counted.done

    whole = work(FULL)
    low, high = map(math.log, bounds)
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if whole / work(method(math.exp(middle))) < target else (low, middle)
    return math.exp((low + high) / 2)


def methods(model: embedded.Embedded, made: list[Batch]) -> list[Method]:
    """What is compared; `made`: batches of other prompts to choose thresholds on."""

    def told(name: str, strategy: Any, **more: Any) -> Method:
        return Method(name, STEPS, {"adapter": model.adapter, "schedule": strategy, **more})

    def dynamic(speed: float) -> Callable[[float], Method]:
        return lambda threshold: told(
            f"dynamic, {speed:g}x", Threshold(threshold, SCALES, mixed="hold"), batch="split"
        )

    def both(threshold: float) -> Method:
        inner = Threshold(chosen[DYNAMIC[-1]], SCALES, mixed="hold")
        return told(BOTH, TeaCache(threshold, sizes=inner))

    chosen = {
        speed: bisected(model.pipeline, made, speed, BOUNDS["Threshold"], dynamic(speed)) for speed in DYNAMIC
    }
    found = [FULL, *(dynamic(speed)(chosen[speed]) for speed in DYNAMIC)]
    found.append(both(bisected(model.pipeline, singly(made), WITH_TEACACHE, BOUNDS["TeaCache"], both)))
    for speed in (*DYNAMIC, WITH_TEACACHE):
        calls = round(STEPS / speed)
        found.append(Method(f"{calls} steps, {speed:g}x", calls))
        found.append(
            Method(f"forecast, {calls} calls, {speed:g}x", STEPS, {"schedule": Forecast(calls=calls)})
        )
    for coarse, rivals in early(model.adapter):  # some have the same full calls beside them
        known = {other.name for other in found}
        found += [method for method in (coarse, *rivals) if method.name not in known]
    coarse_steps = {"adapter": model.adapter, "schedule": [2, 2, 2, 1, 1, 1]}
    found.append(Method("6 plain steps, first 3 at scale 2", 6, coarse_steps))
    return [*found, Method("control: 7 steps", 7), told("control: every step at scale 4", 4)]


def early(adapter: Path) -> list[tuple[Method, list[Method]]]:
    """Forecasts whose first calls are coarse, each with its rivals: of the next larger work first, then the next smaller."""
    found = []
    for calls, many in EARLY:
        full = calls - many
        work = full + many * COARSE_WORK
        strategy = Forecast(calls=calls, sizes=[2] * many + [1] * full)
        name = f"forecast, first {many} of {calls} calls at scale 2"
        rivals = with_full_calls(math.ceil(work)) + with_full_calls(math.floor(work))
        found.append((Method(name, STEPS, {"adapter": adapter, "schedule": strategy}), rivals))
    return found


def with_full_calls(number: int) -> list[Method]:
    return [
        Method(f"forecast, {number} calls", STEPS, {"schedule": Forecast(calls=number)}),
        placed("UniPC", number).method,
        Method(f"{number} steps", number),
    ]


@dataclass(frozen=True)
class Seen:
    """What the measures see in one way's pictures: numbers a picture, and features that Fréchet distances are of."""

    numbers: dict[str, np.ndarray]
    features: dict[str, np.ndarray]  # [n, K]

    @classmethod
    def of(cls, model: embedded.Embedded, shown: np.ndarray, prompts: list[str]) -> Seen:
        judged = model.judge(shown, prompts)
        chosen = measurable(prompts)
        striped = [prompts[index] for index in chosen]
        numbers = {
            "accuracy": judged.found,
            "straight": straightness(shown[chosen], striped),
            "blurred": edge_width(shown[chosen], striped),
        }
        return cls(numbers, {"frechet": judged.features, "textures": Textures()(shown)})

    def measures(self, real: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
        """Each with its interval. real: features of real pictures."""
        numbers = {name: with_interval(values) for name, values in self.numbers.items()}
        return numbers | {
            name: frechet_interval(values, real[name]) for name, values in self.features.items()
        }

    def difference(self, full: Seen, real: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
        """Measure -> the 95 % interval of what it is above the full run's, on the same prompts.

        Fréchet distances are of random halves of the prompts: those differ from each other as sets of that size do, and
        no picture counts twice, as it would in a bootstrap.
        """
        found = {}
        for name, values in self.numbers.items():
            more = values - full.numbers[name]
            found[name] = bootstrap(lambda index, more=more: more[index].mean(), len(more))
        for name, values in self.features.items():
            rng = np.random.default_rng(0)
            halves = [rng.permutation(len(values))[: len(values) // 2] for _ in range(HALVES)]
            more = [
                frechet_distance(values[half], real[name])
                - frechet_distance(full.features[name][half], real[name])
                for half in halves
            ]
            found[name] = (float(np.percentile(more, 2.5)), float(np.percentile(more, 97.5)))
        return found


def singly(made: list[Batch]) -> list[Batch]:
    """The same samples in batches of one, so that each decides for itself."""
    return [
        Batch([prompt], {name: values[at : at + 1] for name, values in batch.inputs.items()})
        for batch in made
        for at, prompt in enumerate(batch.prompts)
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown. A star: the interval of the difference to the full run, on the same prompts, leaves out 0."""
    heads = ["way", "times less work", *(head for head, _ in COLUMNS.values())]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [row["method"], f"{row['less work']:.2f}"]
        for name, (_, digits) in COLUMNS.items():
            low, high = row.get("difference", {}).get(name, (0, 0))
            star = "*" if low > 0 or high < 0 else ""
            value = row[name]
            cells.append(
                f"{value['mean']:.{digits}f}{star} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"
            )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def time_early(model: embedded.Embedded, out: Path | None) -> None:
    """Print how long coarse calls first and their rivals take beside the full run, and write it to `out`."""
    ways = [FULL, *(way for coarse, rivals in early(model.adapter) for way in (coarse, *rivals))]
    batch = batches(model.pipeline, model.reference(1, seed=PROMPT_SEED)[1], 1, seed=NOISE_SEED)[0]
    loops = {way.name: lambda way=way: run(model.pipeline, batch, way)[1] for way in ways}
    times = interleaved(loops, TURNS, warmup=1, clock=lambda loop: loop())
    for name, taken in times.items():
        low, high = 1 / taken["ratio_high"], 1 / taken["ratio_low"]
        print(f"{name:45} {1 / taken['ratio']:.2f} times as fast [{low:.2f}, {high:.2f}]")
    if out:
        write_json(out, times)


def sheet(file: Path, shown: dict[str, np.ndarray]) -> None:
    """A picture of pictures: a row a way, a column a prompt. shown: uint8 ``[n, H, W, 3]`` by the way's name."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(shown), figsize=(10, 1.25 * len(shown)))
    for axis, (name, pictures) in zip(axes, shown.items(), strict=True):
        axis.imshow(np.concatenate(list(pictures), axis=1), interpolation="nearest")
        axis.set_title(name, loc="left", fontsize=9)
        axis.axis("off")
    figure.tight_layout(pad=0.3)
    figure.savefig(file, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--calibration", type=int, default=16, help="prompts that thresholds are chosen on")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--keep", type=Path, default=None)
    parser.add_argument("--time", action="store_true", help="measure the time of the ways of early() instead")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--sheet", type=Path, default=None, help="draw the first prompts, coarse calls first")
    arguments = parser.parse_args()
    if arguments.keep is None and not arguments.time:
        parser.error("--keep FOLDER is needed")
    torch.manual_seed(0)
    model = embedded.load("flux")
    pipe = model.pipeline
    pipe.set_progress_bar_config(disable=True)
    if arguments.time:
        time_early(model, arguments.out)
        return
    others = model.reference(arguments.calibration, seed=CALIBRATION_SEED)[1]
    compared = methods(model, batches(pipe, others, arguments.batch, seed=11))
    prompts = model.reference(arguments.prompts, seed=PROMPT_SEED)[1]
    made = batches(pipe, prompts, arguments.batch, seed=NOISE_SEED)
    kept, alone = Kept(arguments.keep, pipe, made), Kept(arguments.keep / "alone", pipe, singly(made))
    real = {
        "frechet": model.real_features(),
        "textures": Textures()(model.reference(1024, seed=REAL_SEED)[0]),
    }
    rows: list[dict[str, Any]] = []
    seen_by: dict[str, Seen] = {}
    drawn: dict[str, np.ndarray] = {}
    for method in compared:
        where = alone if method.name == BOTH else kept
        shown = decode(pipe, where.latents(method))
        seen = seen_by[method.name] = Seen.of(model, shown, prompts)
        if method is FULL:
            whole, full = shown, seen
        row = {"method": method.name, "less work": kept.work(FULL) / where.work(method)}
        row |= seen.measures(real) | {"run": with_interval(psnr(shown, whole))}
        row["difference"] = {} if method is FULL else seen.difference(full, real)
        named = f"{method.name}: {row['less work']:.2f} times less work"
        drawn[named] = shown[:SHOWN]
        print(named, flush=True)
        rows.append(row)
    print(table(rows))
    if arguments.sheet:
        lines = [(coarse, *rivals[: len(rivals) // 2]) for coarse, rivals in early(model.adapter)[-2:]]
        asked = {method.name for line in lines for method in line} | {FULL.name}
        chosen = {name: made for name, made in drawn.items() if name.split(":")[0] in asked}
        sheet(arguments.sheet, chosen)
    against = {
        f"{coarse.name} against {other.name}": seen_by[coarse.name].difference(seen_by[other.name], real)
        for coarse, rivals in early(model.adapter)
        for other in rivals
    }
    print(*(f"{pair}: {intervals}" for pair, intervals in against.items()), sep="\n")
    if arguments.out:
        told = {method.name: repr((method.patch or {}).get("schedule")) for method in compared}
        versions = {
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "python": platform.python_version(),
        }
        head = {
            "date": date.today().isoformat(),
            "versions": versions,
            "prompts": arguments.prompts,
            "ways": told,
        }
        write_json(arguments.out, head | {"rows": rows, "against": against})
        arguments.out.with_suffix(".md").write_text(table(rows))


if __name__ == "__main__":
    main()
