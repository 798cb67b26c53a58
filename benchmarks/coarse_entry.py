"""Host time to enter and leave a coarse call, without LoRA, beside its layers and merged: FLUX.1-dev's 152 layers.

python benchmarks/coarse_entry.py [--rounds 200] [--json FILE]. The three take turns. Widths are tiny: nothing but Python is timed.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from _timing import write_json
from diffusers import FluxTransformer2DModel

from ddit_ext.coarse import Adapter
from ddit_ext.coarse.levels import RunLevel, RunLevels
from ddit_ext.families import family_for

MODEL = dict(
    patch_size=1,
    in_channels=64,
    num_layers=19,
    num_single_layers=38,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=8,
    pooled_projection_dim=8,
    axes_dims_rope=(4, 6, 6),
)
SIDE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", help="file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = FluxTransformer2DModel(**MODEL).eval().requires_grad_(False)
    ids = torch.zeros(SIDE, SIDE, 3)
    ids[..., 1], ids[..., 2] = torch.arange(SIDE)[:, None], torch.arange(SIDE)
    call = {
        "hidden_states": torch.randn(1, SIDE * SIDE, 64),
        "timestep": torch.full((1,), 0.75),
        "img_ids": ids.view(-1, 3),
        "txt_ids": torch.zeros(512, 3),
    }
    sigma = RunLevel(RunLevels([1.0, 0.75, 0.5]), 1)  # a step of a run, as patch() has it
    candidates = {}
    for name, rank, merge in (("no LoRA", 0, False), ("beside", 32, False), ("merged", 32, True)):
        family = family_for(model)
        family.low_rank.merge = merge
        weights = Adapter.create(model, (2,), rank=rank).eval().requires_grad_(False).own(2)
        candidates[name] = (family, weights)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    with torch.no_grad():
        for _ in range(options.rounds):
            for name, (family, weights) in candidates.items():
                start = time.perf_counter()
                with family.coarse(call, weights, sigma):
                    entered = time.perf_counter()
                times[name].append((time.perf_counter() - start, entered - start))
    results = {}
    for name, (_, weights) in candidates.items():
        both, entered = min(times[name])
        median = statistics.median(each for each, _ in times[name])
        results[name] = {
            "layers": len(weights.lora),
            "fastest_s": both,
            "median_s": median,
            "enter_s": entered,
        }
        print(
            f"{name:8} {len(weights.lora):4} layers: enter and leave {1e3 * both:.2f} ms (fastest of "
            f"{options.rounds}; median {1e3 * median:.2f}), enter {1e3 * entered:.2f}"
        )
    if options.json:
        write_json(options.json, results)


if __name__ == "__main__":
    main()
