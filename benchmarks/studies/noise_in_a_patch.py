"""How much of the low band of the base's velocity depends on the noise inside coarse patches, which no mean of them shows.

    python benchmarks/studies/noise_in_a_patch.py --model flux --side 64 --prompts 16
    python benchmarks/studies/noise_in_a_patch.py --model wan --prompts 8 --guidance 1 4

Two noisy latents of one scene share the s x s means of their noise and differ in the rest. Half the squared difference
of the low bands of the two velocities, over the mean square of the velocity, is the least squared error of a coarse call
that knows the means alone. A perfect model at noise level 1 would have none: its answer is the prompt's mean picture.
"""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
import torch
from _coarse_runs import Bench, spread
from _timing import write_json
from _wan_runs import BENCHES, SIDES

from ddit_ext import embedded

LEVELS = (1.0, 0.95, 0.9, 0.8, 0.7)
SCENE_SEED = 77


@torch.no_grad()
def shares(bench: Bench, clean: torch.Tensor, level: float) -> dict[int, float]:
    """Scale -> the share at one noise level."""
    generator = torch.Generator().manual_seed(1)
    noise, fresh = (torch.randn(clean.shape, generator=generator) for _ in range(2))

    def velocity(drawn: torch.Tensor) -> torch.Tensor:
        return bench.unpack(bench.velocity(bench.pack((1 - level) * clean + level * drawn), level))

    first = velocity(noise)
    found = {}
    for scale in (2, 4):
        other = velocity(spread(noise, scale) + fresh - spread(fresh, scale))
        difference = spread(first - other, scale).square().mean() / 2
        found[scale] = (difference / first.square().mean()).item()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="flux", choices=tuple(BENCHES))
    parser.add_argument("--side", type=int, default=None, choices=(64, 128), help="of FLUX's pictures")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0, 3.5, 5.0])
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    side, kind = arguments.side or SIDES[arguments.model], BENCHES[arguments.model]
    pictures, described = kind.draw(arguments.prompts, SCENE_SEED, side)
    bench = kind(embedded.load(arguments.model), side, [shown.prompt for shown in described], seed=3)
    clean = bench.clean(pictures)
    print(f"| guidance, size, σ | {' | '.join(f'{level:g}' for level in LEVELS)} |")
    print("|---" * (len(LEVELS) + 1) + "|")
    rows = []
    for guidance in arguments.guidance:
        bench.guide(guidance)
        found = {level: shares(bench, clean, level) for level in LEVELS}
        for scale in (2, 4):
            values = [found[level][scale] for level in LEVELS]
            rows.append(
                {"guidance": guidance, "scale": scale, "share": dict(zip(LEVELS, values, strict=True))}
            )
            print(
                f"| {guidance:g}, {scale}p | {' | '.join(f'{value:.4f}' for value in values)} |", flush=True
            )
    if arguments.out:
        settings = {"model": arguments.model, "side": side, "prompts": arguments.prompts}
        versions = {"torch": torch.__version__, "date": date.today().isoformat()}
        write_json(arguments.out, settings | versions | {"rows": rows})


if __name__ == "__main__":
    main()
