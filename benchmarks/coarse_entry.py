"""Host time to enter and leave a coarse call, without LoRA, beside its layers and merged: FLUX.1-dev's 152 layers.

python benchmarks/coarse_entry.py [--rounds 200]. Widths are tiny: nothing but Python is timed.
"""

from __future__ import annotations

import argparse
import time

import torch
from diffusers import FluxTransformer2DModel

from ddit_ext.coarse import Adapter
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
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    model = FluxTransformer2DModel(**MODEL).eval().requires_grad_(False)
    ids = torch.zeros(SIDE, SIDE, 3)
    ids[..., 1], ids[..., 2] = torch.arange(SIDE)[:, None], torch.arange(SIDE)
    call = {
        "hidden_states": torch.randn(1, SIDE * SIDE, 64),
        "timestep": torch.full((1,), 0.75),
        "img_ids": ids.view(-1, 3),
    }
    sigma = torch.full((1,), 0.75)
    for name, rank, merge in (("no LoRA", 0, False), ("beside", 32, False), ("merged", 32, True)):
        family = family_for(model)
        family.low_rank.merge = merge
        weights = Adapter.create(model, (2,), rank=rank).eval().requires_grad_(False).own(2)
        times = []
        with torch.no_grad():
            for _ in range(rounds):
                start = time.perf_counter()
                with family.coarse(call, weights, sigma):
                    entered = time.perf_counter()
                times.append((time.perf_counter() - start, entered - start))
        times.sort()
        both, entered = times[0]
        print(
            f"{name:8} {len(weights.lora):4} layers: enter and leave {1e3 * both:.2f} ms (fastest of {rounds}; "
            f"median {1e3 * times[rounds // 2][0]:.2f}), enter {1e3 * entered:.2f}"
        )


if __name__ == "__main__":
    main()
