"""Trains the embedded FLUX on scenes: small pictures, then full ones with small ones mixed in, then guidance too.

    python -m embedded_training.train_flux --minutes 120

Captions are dropped now and then. In the last part of the training the model learns to give in one call what
classifier-free guidance needs two for, as FLUX.1-dev does: its guidance input is then a weight w, and the target moves
by (w - 1) (v(prompt) - v(empty)) of the model's own running average (Tang et al., "Diffusion Models without
Classifier-free Guidance", 2025). Resumable: a second call goes on until --minutes of training are done in all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from . import architecture
from .data import load_or_draw, to_signal
from .flow import SHIFT, image_ids, noise_levels, pack, velocity
from .loop import Modules, train

CAPTION_DROP = 0.1
NO_GUIDANCE = 1.0  # the guidance input of an unguided call
GUIDANCE = (1.0, 5.0)  # weights that the guidance input stands for
GUIDED_FROM = 0.6  # share of the time after which guidance is trained
GUIDED_SHARE = (
    0.6  # of the samples from then on; the others keep the unguided model, which the target is made of
)
SMALL_ONLY = 0.5  # share of the time spent on small pictures alone
SMALL_LATER = 0.3  # share of the batches that stay small afterwards
BATCH = {"small": 64, "full": 32}


class Corpus:
    """Latents of the drawn scenes at both sizes, encoded once, and their token ids."""

    def __init__(self, folder: Path, chunks: int, vae: AutoencoderKL) -> None:
        pictures, prompts = load_or_draw(folder, chunks)
        ids = architecture.tokenizer()(
            prompts,
            padding="max_length",
            max_length=architecture.TEXT_LENGTH,
            truncation=True,
            return_tensors="pt",
        )
        self.ids = ids.input_ids
        self.empty = torch.tensor([architecture.END] + [0] * (architecture.TEXT_LENGTH - 1))
        self._pictures, self._vae, self._folder = pictures, vae, folder
        self._latents: dict[str, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def latents(self, size: str) -> torch.Tensor:
        if size not in self._latents:
            self._latents[size] = self._encode(size)
        return self._latents[size]

    @torch.no_grad()
    def _encode(self, size: str) -> torch.Tensor:
        file = self._folder / f"latents-{size}-{len(self)}.npy"
        if not file.exists():
            config = self._vae.config
            parts = []
            for start in range(0, len(self), 128):
                signal = to_signal(self._pictures[start : start + 128])
                if size == "small":
                    signal = torch.nn.functional.avg_pool2d(signal, 2)
                with torch.autocast("cpu", torch.bfloat16):
                    mode = self._vae.encode(signal).latent_dist.mode()
                parts.append(((mode.float() - config.shift_factor) * config.scaling_factor).half())
            np.save(file, torch.cat(parts).numpy())
        return torch.from_numpy(np.load(file))

    def batch(self, size: str, count: int, drop: float = CAPTION_DROP) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents ``[count, 4, H, W]`` and token ids ``[count, 12]``, a share ``drop`` of them the empty caption's."""
        index = torch.randint(len(self), (count,))
        ids = self.ids[index].clone()
        ids[torch.rand(count) < drop] = self.empty
        return self.latents(size)[index].float(), ids


def build() -> Modules:
    return {
        "transformer": architecture.transformer(),
        "text_encoder": architecture.text_encoder(),
        "text_encoder_2": architecture.text_encoder_2(),
    }


def encode_text(modules: Modules, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return modules["text_encoder_2"](ids)[0], modules["text_encoder"](ids).pooler_output


@torch.no_grad()
def guidance_shift(
    averages: Modules,
    latents: torch.Tensor,
    noisy: torch.Tensor,
    sigma: torch.Tensor,
    ids: torch.Tensor,
    empty: torch.Tensor,
) -> torch.Tensor:
    """v(prompt) - v(empty) of the averaged model, packed: the direction that guidance adds more of."""
    text, pooled = encode_text(averages, torch.cat([ids, empty.expand_as(ids)]))
    tokens, levels = pack(noisy), torch.cat([sigma, sigma])
    both = velocity(
        averages["transformer"],
        torch.cat([tokens, tokens]),
        levels,
        text,
        pooled,
        image_ids(latents),
        torch.full_like(levels, NO_GUIDANCE),
    )
    prompted, unprompted = both.chunk(2)
    return prompted - unprompted


def flow_loss(
    modules: Modules,
    latents: torch.Tensor,
    ids: torch.Tensor,
    averages: Modules | None = None,
    empty: torch.Tensor | None = None,
    shift: float = SHIFT,
) -> torch.Tensor:
    """The mean squared error of the velocity; with ``averages``, a share of the samples is guided."""
    sigma = noise_levels(len(latents), shift)
    noise = torch.randn_like(latents)
    noisy = torch.lerp(latents, noise, sigma[:, None, None, None])
    target = pack(noise - latents)
    guidance = torch.full((len(latents),), NO_GUIDANCE)
    chosen = (torch.rand(len(latents)) < GUIDED_SHARE).nonzero()[:, 0]
    if averages is not None and len(chosen):  # the text encoders take no empty batch
        guidance[chosen] = torch.empty(len(chosen)).uniform_(*GUIDANCE)
        shift = guidance_shift(averages, latents, noisy[chosen], sigma[chosen], ids[chosen], empty)
        target[chosen] += (guidance[chosen] - 1)[:, None, None] * shift
    text, pooled = encode_text(modules, ids)
    guess = velocity(modules["transformer"], pack(noisy), sigma, text, pooled, image_ids(latents), guidance)
    return torch.nn.functional.mse_loss(guess.float(), target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/embedded"))
    parser.add_argument("--chunks", type=int, default=96)
    parser.add_argument("--minutes", type=float, default=75)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    vae = AutoencoderKL.from_pretrained(arguments.run / "vae").eval()
    corpus = Corpus(arguments.run / "data", arguments.chunks, vae)
    corpus.latents("small")

    def loss_of(done: float, modules: Modules, averages: Modules) -> tuple[str, torch.Tensor]:
        size = "small" if done < SMALL_ONLY or torch.rand(()) < SMALL_LATER else "full"
        latents, ids = corpus.batch(size, BATCH[size])
        guided = {"averages": averages, "empty": corpus.empty} if done > GUIDED_FROM else {}
        return f"{size}, guided" if guided else size, flow_loss(modules, latents, ids, **guided)

    # "transformer_blocks" names the single ones too
    train(build(), loss_of, arguments.run, "flux", arguments.minutes, arguments.rate, "transformer_blocks")


if __name__ == "__main__":
    main()
