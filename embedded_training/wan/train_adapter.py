"""Distils the adapter of the embedded Wan: patches of 2p and 4p, taught by the model itself.

    python -m embedded_training.wan.train_adapter --steps 600

Noisy latents are clips with noise; teacher and student see the same ones. Captions are dropped as in the base's training:
half of the calls of a guided run have the empty one. Resumable: the same command goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ddit_ext import embedded
from ddit_ext.coarse.adapter import Adapter
from ddit_ext.training import DistillConfig, distill

from ..common import grow
from . import architecture
from .corpus import Corpus, encode_text
from .train_base import CLIPS

EMPTY_SHARE = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/embedded/wan"))
    parser.add_argument("--drawn", type=Path, default=Path("runs/embedded/clips"))
    parser.add_argument("--chunks", type=int, default=128)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument(
        "--grow", type=Path, default=None, help="an adapter to start from, of no larger widths"
    )
    arguments = parser.parse_args()

    pipe = embedded.load("wan").pipeline
    corpus = Corpus(arguments.run, arguments.drawn, arguments.chunks, pipe.vae)
    latents = corpus.latents("full", CLIPS["full"])

    @torch.no_grad()
    def batch(step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with torch.random.fork_rng():
            torch.manual_seed(7_000_000 + step)
            clips, ids, mask = corpus.batch(latents, arguments.batch, EMPTY_SHARE)
        return clips, {"encoder_hidden_states": encode_text(pipe.text_encoder, ids, mask)}

    adapter = Adapter.create(pipe.transformer, scales=(2, 4), rank=arguments.rank, start="blended")
    if arguments.grow:
        grow(adapter, Adapter.load(arguments.grow, None))
    config = DistillConfig(
        steps=arguments.steps, lr=arguments.rate, sigma_shift=architecture.FLOW_SHIFT, checkpoint_every=100
    )
    distill(pipe.transformer, adapter, batch, config, out_dir=arguments.run / "adapter")


if __name__ == "__main__":
    main()
