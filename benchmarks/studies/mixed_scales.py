r"""Mixed scales inside a step: a share of the cells full, the others coarse. Does that beat whole steps of as many tokens?

    python benchmarks/studies/mixed_scales.py --prompts 4 --sources oracle --ranges "last 8" "first 8" "first 4" all \
        --out benchmarks/studies/results/mixed_scales.json

The ceiling of the idea, by arithmetic on velocities: no model runs on tokens of two sizes. In the chosen cells (a token at
scale 2, 4x4 latent pixels) the base's full velocity stands, in the others a coarse one: the oracle's (low band kept, detail
analytic), the blind oracle's or the adapter's. Cells are chosen by how wrong the coarse velocity is there (ideal: nobody
knows it before a full call), by how much the velocity has changed between the last two steps, by the detail of the clean
picture that the last step predicted, or at random. Beside that, whole steps: the same share of the steps full, the others
coarse, with the full ones first, last, at both ends or spread over the range. Image tokens are equal; PSNR to the run of all steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
import diffusers
import numpy as np
import torch
from _coarse_runs import STEPS, Bench, spread
from _quality import psnr
from _timing import write_json
from coarse_ceiling import SCENE_SEED
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ddit_ext import embedded
from ddit_ext.coarse import Adapter

SCALE = 2
CELL = 2 * SCALE  # latent pixels a side
RANGES = {
    "first 4": range(4),
    "first 8": range(8),
    "first 12": range(12),
    "last 8": range(STEPS - 8, STEPS),
    "all": range(STEPS),
}
SHARES = (0.25, 0.5)
KNOWN = ("change", "detail", "random")  # what a product could choose by
CHOICES = ("ideal", *KNOWN)
ORDERS = ("full first", "full last", "spread", "both ends")


def tokens(share: float) -> float:
    """The work of a step with so many of its cells full, as a share of a full one's."""
    return share + (1 - share) / SCALE**2


def whole_steps(steps: range, share: float, order: str) -> dict[int, float]:
    """step -> 1 for a share of the steps, 0 for the others."""
    count = round(share * len(steps))
    match order:
        case "full first":
            full = steps[:count]
        case "both ends":
            full = [*steps[: count - count // 2], *steps[len(steps) - count // 2 :]]
        case "full last":
            full = steps[len(steps) - count :]
        case _:
            full = [steps[int((k + 0.5) * len(steps) / count)] for k in range(count)]
    return {step: float(step in full) for step in steps}


def of_cells(values: Tensor) -> Tensor:
    """Energy of each cell: ``[n, C, H, W]`` -> ``[n, 1, H / CELL, W / CELL]``."""
    return avg_pool2d(values.square().mean(1, keepdim=True), CELL)


def chosen(score: Tensor, share: float) -> Tensor:
    """True at the pixels of the cells with the highest scores, so many of each picture: ``[n, 1, H, W]``."""
    flat = score.flatten(1)
    best = flat.topk(round(share * flat.shape[1]), dim=1).indices
    mask = torch.zeros_like(flat, dtype=torch.bool).scatter(1, best, True).view_as(score)
    return mask.repeat_interleave(CELL, -2).repeat_interleave(CELL, -1)


class Mixing:
    """Runs of a bench whose steps are mixed.

    Attributes:
        plain: latents of the run without coarse steps, before each step and at the end.
    """

    def __init__(self, bench: Bench, source: Adapter | str) -> None:
        self.bench, self.source = bench, source
        self.plain = [bench.noise]
        for step in range(STEPS):
            self.plain.append(self._stepped(self.plain[-1], step, self._full(self.plain[-1], step)))
        self.wanted = bench.pictures(self.plain[-1])

    def psnr(self, shares: dict[int, float], choice: str = "random") -> list[float]:
        """dB of each picture to the plain run. shares: of the cells that are full, at the steps that are not plain."""
        first = min((step for step, share in shares.items() if share < 1), default=STEPS)
        latents, generator = self.plain[first], torch.Generator().manual_seed(7)
        before: list[tuple[Tensor, Tensor]] = []  # velocity and predicted clean picture of the steps so far
        for step in range(first, STEPS):
            share = shares.get(step, 1.0)
            if share == 1.0:
                velocity = self._full(latents, step)
            elif share == 0.0:
                velocity = self._coarse(latents, step)
            else:
                full = self._full(latents, step)
                coarse = self._coarse(latents, step, full)
                full_, coarse_ = self.bench.unpack(full), self.bench.unpack(coarse)
                score = self._score(choice, full_ - coarse_, before, generator)
                velocity = self.bench.pack(torch.where(chosen(score, share), full_, coarse_))
            seen = self.bench.unpack(velocity)
            clean = self.bench.unpack(latents) - float(self.bench.sigmas[step]) * seen
            before = [*before[-1:], (seen, clean)]
            latents = self._stepped(latents, step, velocity)
        return psnr(self.bench.pictures(latents), self.wanted).tolist()

    def _score(self, choice: str, wrong: Tensor, before: list, generator: torch.Generator) -> Tensor:
        """Higher where a cell should be full; at random where nothing is known yet."""
        if choice == "ideal":
            return of_cells(wrong)
        if choice == "change" and len(before) == 2:
            return of_cells(before[1][0] - before[0][0])
        if choice == "detail" and before:
            return of_cells(before[-1][1] - spread(before[-1][1], SCALE))
        return torch.rand(of_cells(wrong).shape, generator=generator)

    def _full(self, latents: Tensor, step: int) -> Tensor:
        return self.bench.velocity(latents, float(self.bench.sigmas[step]))

    def _coarse(self, latents: Tensor, step: int, full: Tensor | None = None) -> Tensor:
        """full: the base's velocity there, where it is known already."""
        sigma = float(self.bench.sigmas[step])
        if full is None or isinstance(self.source, Adapter):
            return self.bench.velocity(latents, sigma, SCALE, self.source)
        known = full if self.source == "oracle" else self.bench.blind(latents, full, sigma, SCALE)
        return self.bench.oracle(latents, known, sigma, SCALE)

    def _stepped(self, latents: Tensor, step: int, velocity: Tensor) -> Tensor:
        return latents + float(self.bench.sigmas[step + 1] - self.bench.sigmas[step]) * velocity


def ways(steps: range) -> Iterator[tuple[str, float, dict[int, float], str]]:
    """Name, share, share of each step, and how cells are chosen."""
    yield "all coarse", 0.0, dict.fromkeys(steps, 0.0), "random"
    for share in SHARES:
        for choice in CHOICES:
            yield f"cells, {choice}", share, dict.fromkeys(steps, share), choice
        for order in ORDERS:
            yield f"steps, {order}", share, whole_steps(steps, share, order), "random"


def best(rows: list[dict], names: list[str]) -> dict:
    return max((row for row in rows if row["way"] in names), key=lambda row: np.mean(row["psnr"]))


def compared(rows: list[dict]) -> list[dict]:
    """For each source, range and share: the best choice of cells less the best whole steps, and its standard error."""
    found = []
    for key in dict.fromkeys((r["source"], r["range"], r["share"]) for r in rows if r["share"]):
        own = [r for r in rows if (r["source"], r["range"], r["share"]) == key]
        steps = best(own, [f"steps, {order}" for order in ORDERS])
        line = dict(zip(("source", "range", "share"), key, strict=True)) | {"steps": steps["way"]}
        for kind, choices in (("ideal", ("ideal",)), ("known", KNOWN)):
            cells = best(own, [f"cells, {choice}" for choice in choices])
            more = np.subtract(cells["psnr"], steps["psnr"])
            line[kind] = {
                "way": cells["way"],
                "more": more.mean(),
                "error": more.std(ddof=1) / len(more) ** 0.5,
            }
        found.append(line)
    return found


def table(rows: list[dict]) -> str:
    """Means in dB, a line a source, range and share."""
    names = [f"cells, {choice}" for choice in CHOICES] + [f"steps, {order}" for order in ORDERS]
    lines = [
        f"| dB | all coarse | share full, tokens | {' | '.join(names)} |",
        "|---" * (3 + len(names)) + "|",
    ]
    means = {(r["source"], r["range"], r["share"], r["way"]): np.mean(r["psnr"]) for r in rows}
    for line in compared(rows):
        source, where, share = line["source"], line["range"], line["share"]
        cells = [f"{means[source, where, share, name]:.1f}" for name in names]
        none = means[source, where, 0.0, "all coarse"]
        head = f"{source}, {where} | {none:.1f} | {share:g}, {tokens(share):.2f}"
        lines.append(f"| {head} | {' | '.join(cells)} |")
    lines += ["", "| cells less the best whole steps, dB | ideal | known |", "|---|---|---|"]
    for line in compared(rows):
        both = [
            f"{line[k]['more']:+.1f} ± {line[k]['error']:.1f} ({line[k]['way']})" for k in ("ideal", "known")
        ]
        lines.append(f"| {line['source']}, {line['range']}, {line['share']:g} | {' | '.join(both)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="flux", choices=("flux", "flux-128"))
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--ranges", nargs="+", default=list(RANGES), choices=tuple(RANGES))
    parser.add_argument("--sources", nargs="+", default=["oracle", "adapter"], help="blind, too")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    model = embedded.load(arguments.model)
    prompts = list(model.reference(arguments.prompts, seed=SCENE_SEED)[1])
    bench = Bench(model, 64 if arguments.model == "flux" else 128, prompts, seed=4242)
    rows: list[dict] = []
    for name in arguments.sources:
        source = Adapter.load(model.adapter, bench.transformer) if name == "adapter" else name
        mixing = Mixing(bench, source)
        for where in arguments.ranges:
            for way, share, shares, choice in ways(RANGES[where]):
                row = {"source": name, "range": where, "share": share, "way": way}
                rows.append(row | {"psnr": mixing.psnr(shares, choice)})
                print(name, where, share, way, f"{np.mean(rows[-1]['psnr']):.1f}", flush=True)
            if arguments.out:
                head = {"date": date.today().isoformat(), "model": arguments.model, "prompts": len(prompts)}
                head["versions"] = {"torch": torch.__version__, "diffusers": diffusers.__version__}
                write_json(arguments.out, head | {"rows": rows, "compared": compared(rows)})
    print(table(rows))


if __name__ == "__main__":
    main()
