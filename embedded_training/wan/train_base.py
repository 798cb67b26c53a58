"""Trains the embedded Wan on clips: small ones, then full ones with single frames mixed in.

    python -m embedded_training.wan.train_base --minutes 190 --compile
    python -m embedded_training.wan.train_base --go-on --minutes 90

Captions are dropped now and then: sampling is guided by two calls a step, as Wan's is. Resumable: a second call goes on
until --minutes of training are done in all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ddit_ext import embedded
from ddit_ext.embedded.clip_autoencoder import ClipAutoencoder

from ..flow import noise_levels
from ..loop import Modules, train
from . import architecture
from .corpus import Corpus, encode_text

SMALL_ONLY = 0.45  # share of the time spent on small clips alone
CLIPS = {"small": 6144, "full": 8192}
BATCH = {"small": 48, "frame": 36, "full": 12}
LATER = ("full", "full", "frame")  # what a batch is drawn from afterwards


def build() -> Modules:
    return {"transformer": architecture.transformer(), "text_encoder": architecture.text_encoder()}


def shipped() -> tuple[Modules, ClipAutoencoder]:
    """The embedded model's parts that learn, and its autoencoder."""
    pipe = embedded.load("wan").pipeline
    learning = {"transformer": pipe.transformer, "text_encoder": pipe.text_encoder}
    return {name: module.train().requires_grad_(True) for name, module in learning.items()}, pipe.vae


def flow_loss(modules: Modules, latents: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean squared error of the velocity."""
    sigma = noise_levels(len(latents), architecture.FLOW_SHIFT)
    noise = torch.randn_like(latents)
    guess = modules["transformer"](
        hidden_states=torch.lerp(latents, noise, sigma[:, None, None, None, None]),
        timestep=1000 * sigma,
        encoder_hidden_states=encode_text(modules["text_encoder"], ids, mask),
        return_dict=False,
    )[0]
    return torch.nn.functional.mse_loss(guess, noise - latents)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/embedded/wan"))
    parser.add_argument("--drawn", type=Path, default=Path("runs/embedded/clips"))
    parser.add_argument("--chunks", type=int, default=128)
    parser.add_argument("--minutes", type=float, default=190)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--compile", action="store_true", help="a third faster, after two minutes a size")
    parser.add_argument(
        "--go-on", action="store_true", help="start from the shipped model, without small clips"
    )
    arguments = parser.parse_args()

    torch.manual_seed(0)
    if arguments.go_on:
        modules, vae = shipped()
    else:
        modules, vae = build(), ClipAutoencoder.from_pretrained(arguments.run / "vae").eval()
    corpus = Corpus(arguments.run, arguments.drawn, arguments.chunks, vae)
    small_only = 0.0 if arguments.go_on else SMALL_ONLY
    if arguments.compile:
        modules["transformer"].compile(dynamic=False)

    def loss_of(done: float, modules: Modules, _: Modules) -> tuple[str, torch.Tensor]:
        size = "small" if done < small_only else LATER[int(torch.randint(len(LATER), ()))]
        if size == "frame":  # a causal autoencoder's first latent frame is that of the first frame alone
            latents = corpus.latents("full", CLIPS["full"])[:, :, :1]
        else:
            latents = corpus.latents(size, CLIPS[size])
        return size, flow_loss(modules, *corpus.batch(latents, BATCH[size]))

    train(modules, loss_of, arguments.run, "base", arguments.minutes, arguments.rate, "blocks")


if __name__ == "__main__":
    main()
