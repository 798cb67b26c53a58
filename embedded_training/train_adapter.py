"""Distils the adapter of the embedded FLUX: patches of 2p and 4p, taught by the model itself.

    python -m embedded_training.train_adapter --steps 3000

Noisy latents are scenes with noise; teacher and student see the same ones. Resumable: the same command goes on from
the last checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import torch

from ddit_ext import embedded
from ddit_ext.coarse.adapter import Adapter
from ddit_ext.coarse.scale_spec import Start
from ddit_ext.training import DistillConfig, distill

from .common import grow
from .flow import SHIFT
from .train_flux import GUIDANCE, Corpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/embedded"))
    parser.add_argument("--name", default="adapter")
    parser.add_argument("--chunks", type=int, default=96)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--hidden", type=int, default=512, help="width of the residual's perceptron")
    parser.add_argument(
        "--grow", type=Path, default=None, help="an adapter to start from, of no larger widths"
    )
    parser.add_argument("--residual-rate", type=float, default=None)
    parser.add_argument("--positions", choices=("centre", "grid"), default="centre")
    parser.add_argument("--start", choices=get_args(Start), default="noise_matched")
    parser.add_argument("--normalise", choices=("teacher", "level", "none"), default="level")
    parser.add_argument(
        "--noise-range",
        nargs=3,
        type=float,
        action="append",
        default=[],
        metavar=("SCALE", "LOW", "HIGH"),
        help="train this patch size on these noise levels only; may be given for each",
    )
    parser.add_argument(
        "--share",
        nargs=2,
        type=float,
        action="append",
        default=[],
        metavar=("SCALE", "SHARE"),
        help="how often this patch size is trained (default: all as often)",
    )
    arguments = parser.parse_args()

    pipe = embedded.load("flux").pipeline
    corpus = Corpus(arguments.run / "data", arguments.chunks, pipe.vae)
    latents = corpus.latents("full")

    @torch.no_grad()
    def batch(step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        generator = torch.Generator().manual_seed(7_000_000 + step)
        index = torch.randint(len(corpus), (arguments.batch,), generator=generator)
        ids = corpus.ids[index]
        guidance = torch.empty(len(index)).uniform_(*GUIDANCE, generator=generator)
        return latents[index].float(), {
            "encoder_hidden_states": pipe.text_encoder_2(ids)[0],
            "pooled_projections": pipe.text_encoder(ids).pooler_output,
            "guidance": guidance,
        }

    adapter = Adapter.create(
        pipe.transformer,
        scales=(2, 4),
        rank=arguments.rank,
        refinement_hidden=arguments.hidden,
        refinement_tokens=True,
        start=arguments.start,
        positions=arguments.positions,
    )
    if arguments.grow:
        grow(adapter, Adapter.load(arguments.grow, pipe.transformer))
    config = DistillConfig(
        steps=arguments.steps,
        lr=arguments.rate,
        lr_residual=arguments.residual_rate,
        normalise=arguments.normalise,
        noise_range={int(scale): (low, high) for scale, low, high in arguments.noise_range},
        scale_shares={int(scale): share for scale, share in arguments.share} or None,
        sigma_shift=SHIFT,
        checkpoint_every=250,
    )
    distill(pipe.transformer, adapter, batch, config, out_dir=arguments.run / arguments.name)


if __name__ == "__main__":
    main()
