"""Latents of the drawn clips, encoded once at two sizes, and their prompts' token ids.

    python -m embedded_training.wan.corpus --size full --clips 5120

encodes ahead of a training, beside another one that does not need that size yet.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm
from transformers import UMT5EncoderModel

from ddit_ext.embedded.clip_autoencoder import ClipAutoencoder

from ..data import draw_clips, load_or_draw, to_signal
from . import architecture

CAPTION_DROP = 0.1


class Corpus:
    """Standardised latents of the first ``clips`` clips that are encoded, and their token ids and masks."""

    def __init__(self, run: Path, drawn: Path, chunks: int, vae: ClipAutoencoder) -> None:
        self._pictures, prompts = load_or_draw(drawn, chunks, draw=draw_clips)
        words = architecture.tokenizer()
        settings = {"padding": "max_length", "max_length": architecture.TEXT_LENGTH, "return_tensors": "pt"}
        encoded, empty = words(prompts, **settings), words([""], **settings)
        self.ids, self.mask = encoded.input_ids, encoded.attention_mask
        self.empty_ids, self.empty_mask = empty.input_ids, empty.attention_mask
        self._run, self._vae = run, vae
        self._latents: dict[str, torch.Tensor] = {}

    def latents(self, size: str, clips: int) -> torch.Tensor:
        """float16 ``[clips, 24, 3, H, W]``: 24 x 24 for ``"full"``, 12 x 12 for ``"small"``."""
        if size not in self._latents:
            file = self._run / f"latents-{size}-{clips}.npy"
            if not file.exists():
                self._encode(size, clips, file)
            self._latents[size] = torch.from_numpy(np.load(file))
        return self._latents[size]

    @torch.no_grad()
    def _encode(self, size: str, clips: int, file: Path) -> None:
        config, parts = self._vae.config, []
        mean = torch.tensor(config.latents_mean)[:, None, None, None]
        deviation = torch.tensor(config.latents_std)[:, None, None, None]
        for start in tqdm(range(0, clips, 16), desc=file.stem):
            signal = to_signal(self._pictures[start : start + 16])
            if size == "small":
                signal = F.avg_pool3d(signal, (1, 2, 2))
            parts.append(((self._vae.encode(signal).latent_dist.mode() - mean) / deviation).half())
        fresh = file.with_suffix(".new.npy")
        np.save(fresh, torch.cat(parts).numpy())
        os.replace(fresh, file)

    def batch(
        self, latents: torch.Tensor, count: int, drop: float = CAPTION_DROP
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``count`` of the latents, float32, with token ids and masks; a share ``drop`` has the empty caption."""
        index = torch.randint(len(latents), (count,))
        dropped = (torch.rand(count) < drop)[:, None]
        ids = torch.where(dropped, self.empty_ids, self.ids[index])
        mask = torch.where(dropped, self.empty_mask, self.mask[index])
        return latents[index].float(), ids, mask


def encode_text(encoder: UMT5EncoderModel, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """float32 ``[B, 12, 96]``, zero after the prompt's end as WanPipeline has it."""
    return encoder(ids, mask).last_hidden_state * mask[..., None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/embedded/wan"))
    parser.add_argument("--drawn", type=Path, default=Path("runs/embedded/clips"))
    parser.add_argument("--chunks", type=int, default=128)
    parser.add_argument("--size", choices=("small", "full"), required=True)
    parser.add_argument("--clips", type=int, required=True)
    arguments = parser.parse_args()
    vae = ClipAutoencoder.from_pretrained(arguments.run / "vae").eval()
    Corpus(arguments.run, arguments.drawn, arguments.chunks, vae).latents(arguments.size, arguments.clips)


if __name__ == "__main__":
    main()
