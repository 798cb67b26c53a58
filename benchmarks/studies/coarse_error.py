"""Error of a coarse step against the p-step over noise levels: PI-resize, noise-matched, the trained adapter.

    python benchmarks/studies/coarse_error.py --out benchmarks/studies/results/coarse_error.json

The relative squared error ‖v_coarse - v_p‖² / ‖v_p‖² of the embedded FLUX on fresh scenes with their prompts, at the guidance
that the pipeline samples with.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
import torch
from _timing import write_json

from ddit_ext import embedded
from ddit_ext.coarse import Adapter
from ddit_ext.embedded.pipeline import FLUX_DEFAULTS
from ddit_ext.training import evaluate_coarse_error

SIGMAS = (0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3)
SCENE_SEED = 6_000_000


@torch.no_grad()
def batches(model: embedded.Embedded, count: int, size: int = 16, seed: int = SCENE_SEED) -> list:
    """Latents of fresh scenes with the arguments of their prompts."""
    pipe = model.pipeline
    pictures, prompts = model.reference(count, seed=seed)
    config = pipe.vae.config
    made = []
    for start in range(0, count, size):
        signal = torch.from_numpy(pictures[start : start + size]).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = (pipe.vae.encode(signal).latent_dist.mode() - config.shift_factor) * config.scaling_factor
        text, pooled, _ = pipe.encode_prompt(
            prompts[start : start + size], None, max_sequence_length=FLUX_DEFAULTS["max_sequence_length"]
        )
        guidance = torch.full((len(latents),), FLUX_DEFAULTS["guidance_scale"])
        conditions = {"encoder_hidden_states": text, "pooled_projections": pooled, "guidance": guidance}
        made.append((latents, conditions))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--adapter", type=Path, default=None, help="default: the embedded one")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = embedded.load("flux")
    transformer = model.pipeline.transformer
    scenes = batches(model, arguments.scenes)
    adapters = {
        "PI-resize": Adapter.training_free(transformer, start="pi_resize", detail_residual=False),
        "PI-resize + g(σ)": Adapter.training_free(transformer, start="pi_resize"),
        "noise-matched, centres": Adapter.training_free(transformer),
        "noise-matched, grid": Adapter.training_free(transformer, positions="grid"),
        "trained adapter": Adapter.load(arguments.adapter or model.adapter, transformer),
    }
    results = {}
    for scale in (2, 4):
        print(f"\n| {scale}p | " + " | ".join(f"{sigma:g}" for sigma in SIGMAS) + " |")
        print("|---" * (len(SIGMAS) + 1) + "|")
        for name, adapter in adapters.items():
            errors = evaluate_coarse_error(transformer, adapter, scenes, scale, SIGMAS)
            results[f"{name}, {scale}p"] = errors
            print(f"| {name} | " + " | ".join(f"{errors[sigma]:.3f}" for sigma in SIGMAS) + " |", flush=True)
    if arguments.out:
        write_json(arguments.out, results)


if __name__ == "__main__":
    main()
