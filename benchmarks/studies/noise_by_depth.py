"""How deep in the base the noise inside coarse patches becomes known: a linear probe of its blocks.

    python benchmarks/studies/noise_by_depth.py --model flux --out benchmarks/studies/results/noise_by_depth_64.json

The low band of the base's velocity depends on the noise inside coarse patches (``noise_in_a_patch.py``). Could a coarse
call read it, say with the first blocks at full resolution before tokens are merged? Two latents of a scene share the
means of their noise and differ in the rest. A ridge regression tells how much of the difference of the low bands of the
velocities follows linearly from the difference of the tokens after a block, those of a coarse patch side by side:
1 is all of it, 0 none. "first call": the tokens after the last block of the calls at noise level 1 with the same two
noises, which a run whose first call is full has at hand.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from datetime import date
from pathlib import Path

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
import torch
from _coarse_runs import Bench, spread
from _timing import write_json
from _wan_runs import SIDES
from torch import Tensor

from ddit_ext import embedded

LEVELS = (0.98, 0.9, 0.8, 0.7)
SCENE_SEED = 77
SCALE = 2
RIDGE = 0.05  # of the features' variance
HELD_OUT = 0.25  # of the prompts


class Depths:
    """A bench whose calls leave the image tokens after each block."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        transformer = bench.transformer
        self.blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]

    @torch.no_grad()
    def call(self, latents: Tensor, level: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The velocity ``[B, C, H, W]``, and ``[B, N / 4, 4 D]`` after each block, those of a coarse patch side by side."""
        bench = self.bench
        seen = {"pixels": self.merged(bench.pack(latents))}
        names = [f"{number} of {len(self.blocks)}" for number in range(1, len(self.blocks) + 1)]
        with ExitStack() as hooks:
            for name, block in zip(names, self.blocks, strict=True):

                def keep(module, inputs, output, name=name):
                    seen[name] = self.merged(output[1])  # texts, images

                hooks.callback(block.register_forward_hook(keep).remove)
            velocity = bench.unpack(bench.velocity(bench.pack(latents), level))
        return velocity, seen

    def merged(self, tokens: Tensor) -> Tensor:
        return side_by_side(tokens, self.bench.rows, SCALE)


def side_by_side(tokens: Tensor, rows: int, scale: int) -> Tensor:
    """``[B, rows², D]`` -> ``[B, (rows / s)², s² D]``: the tokens of a coarse patch one after another."""
    cells = tokens.unflatten(1, (rows // scale, scale, rows // scale, scale)).transpose(2, 3)
    return cells.flatten(3).flatten(1, 2)


def explained(features: Tensor, wanted: Tensor) -> float:
    """R² of a ridge regression on held-out prompts: ``[B, N, D]`` and ``[B, N, C]``."""
    cut = round(len(features) * (1 - HELD_OUT))
    known, asked = features[:cut].flatten(0, 1), features[cut:].flatten(0, 1)
    width = known.std(0) + 1e-6
    known, asked, answers = known / width, asked / width, wanted[:cut].flatten(0, 1)
    damped = known.T @ known + RIDGE * len(known) * torch.eye(known.shape[1])
    left = wanted[cut:].flatten(0, 1) - asked @ torch.linalg.solve(damped, known.T @ answers)
    return 1 - (left.square().mean() / wanted[cut:].square().mean()).item()


def probe(depths: Depths, clean: Tensor, level: float) -> dict[str, float]:
    """Where -> how much is known there, at one noise level."""
    bench, generator = depths.bench, torch.Generator().manual_seed(1)
    noise, fresh = (torch.randn(clean.shape, generator=generator) for _ in range(2))
    other = spread(noise, SCALE) + fresh - spread(fresh, SCALE)
    (first, seen), (second, seen_too) = (
        depths.call((1 - level) * clean + level * each, level) for each in (noise, other)
    )
    last = list(seen)[-1]
    starts = [depths.call(each, 1.0)[1][last] for each in (noise, other)]
    difference = depths.merged(bench.pack(spread(second - first, SCALE)))
    found = {name: explained(seen_too[name] - seen[name], difference) for name in seen}
    return found | {"first call": explained(starts[1] - starts[0], difference)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="flux", choices=("flux", "flux-128"))
    parser.add_argument("--prompts", type=int, default=192)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    side = SIDES[arguments.model]
    pictures, described = Bench.draw(arguments.prompts, SCENE_SEED, side)
    bench = Bench(embedded.load(arguments.model), side, [shown.prompt for shown in described], seed=3)
    depths, clean = Depths(bench), bench.clean(pictures)
    rows = {level: probe(depths, clean, level) for level in LEVELS}
    print(f"| tokens after block | {' | '.join(f'σ = {level:g}' for level in LEVELS)} |")
    print("|---" * (len(LEVELS) + 1) + "|")
    for name in rows[LEVELS[0]]:
        print(f"| {name} | {' | '.join(f'{rows[level][name]:.2f}' for level in LEVELS)} |")
    if arguments.out:
        settings = {"model": arguments.model, "side": side, "prompts": arguments.prompts, "scale": SCALE}
        versions = {"torch": torch.__version__, "date": date.today().isoformat()}
        write_json(arguments.out, settings | versions | {"explained": rows})


if __name__ == "__main__":
    main()
