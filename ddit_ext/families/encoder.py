"""What a pipeline makes of captions and pixels: the arguments that its transformer is called with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor


class Encoder(ABC):
    """The text encoders and the VAE of a pipeline. patch: latent pixels along a side of a base patch."""

    PROMPT: ClassVar[Mapping[str, str]]  # the pipeline's argument, without "negative_" -> the transformer's
    FACTOR: ClassVar[int] = 8  # pixels a latent pixel where no VAE says otherwise
    PACKED: ClassVar[int] = 1  # pixels of its VAE along a side of what the family takes for a latent pixel
    FRAMES: ClassVar[int] = 1  # frames a latent frame

    def __init__(self, pipe: Any, max_sequence_length: int, patch: int = 1):
        self.pipe = pipe
        self.max_sequence_length = max_sequence_length
        self.patch = patch

    @property
    def token_side(self) -> int:
        """Pixels along a side of a token of the base: of its VAE's latent pixels times its patch size."""
        return self.pipe.vae_scale_factor * self.patch

    @abstractmethod
    def text(self, captions: list[str]) -> dict[str, Tensor]:
        """Arguments of the transformer, one row a caption, of one length for all captions."""

    def rows(self, text: Mapping[str, Any]) -> dict[str, Tensor]:
        """The first row of each argument that a call was made with, on the CPU, as `text` would have it."""
        return {name: rows[:1].cpu() for name, rows in text.items() if isinstance(rows, Tensor)}

    @abstractmethod
    def latents(self, pixels: Tensor) -> Tensor:
        """Clean latents of pixels [B, 3, F, H, W] in [-1, 1], as ``Family.training_call`` takes them."""

    def prompt_arguments(self, prompt: str) -> dict[str, Tensor]:
        """Arguments that replace a prompt in a call of the pipeline, with those of an empty negative prompt."""
        both = {"": self.text([prompt]), "negative_": self.text([""])}
        return {
            f"{which}{ours}": text[theirs]
            for which, text in both.items()
            for ours, theirs in self.PROMPT.items()
        }

    @staticmethod
    def picture(pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] of samples that have one frame each; ValueError for clips."""
        if pixels.shape[2] != 1:
            raise ValueError(f"frames must be 1 for a model of pictures, got {pixels.shape[2]}")
        return pixels[:, :, 0]

    @torch.no_grad()
    def moments(self, pixels: Tensor) -> Tensor:
        """What the VAE makes of pixels, float32 and not yet normalised."""
        vae = self.pipe.vae
        parameter = next(vae.parameters())
        return vae.encode(pixels.to(parameter.device, parameter.dtype)).latent_dist.mode().float()

    def by_channel(self, moments: Tensor, mean: str = "latents_mean", std: str = "latents_std") -> Tensor:
        """Latents [B, C, F, H, W] of VAEs whose configuration has a mean and a deviation of each channel."""
        shape = (1, -1, *[1] * (moments.ndim - 2))
        config = self.pipe.vae.config
        low, width = (torch.tensor(config[name], device=moments.device).view(shape) for name in (mean, std))
        return (moments - low) / width


def padded(rows: Tensor, length: int) -> Tensor:
    """Text features [B, L, D] or a mask [B, L] with zeros up to `length`."""
    missing = length - rows.shape[1]
    if missing < 0:
        raise ValueError(f"text of {rows.shape[1]} tokens is longer than max_sequence_length {length}")
    return torch.cat([rows, rows.new_zeros(rows.shape[0], missing, *rows.shape[2:])], dim=1)
