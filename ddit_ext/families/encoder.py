"""What a pipeline makes of captions and pixels: the arguments that its transformer is called with."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

LENGTHS = "_lengths"
"""Ends the name of what says how long each of several texts is."""


class Encoder(ABC):
    """The text encoders and the VAE of a pipeline. patch: latent pixels along a side of a base patch."""

    PADDED: ClassVar[bool] = False  # whether texts are padded here to the length that is set
    MASK: ClassVar[str | None] = None  # the argument that is 1 for text, where pipelines leave it out
    PROMPT: ClassVar[Mapping[str, str]]  # the pipeline's argument, without "negative_" -> the transformer's
    GUIDANCE: ClassVar[str] = "guidance_scale"  # the pipeline's argument
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
        factor = getattr(self.pipe, "vae_scale_factor_spatial", None)  # of a video's pipeline
        return (factor or self.pipe.vae_scale_factor) * self.PACKED * self.patch

    @abstractmethod
    def text(self, captions: list[str]) -> dict[str, Tensor]:
        """Arguments of the transformer, one row a caption, of one length for all captions."""

    def rows(self, text: Mapping[str, Any]) -> dict[str, Tensor]:
        """The prompt's row of each argument that a call was made with, the first, on the CPU, as `text` would have it."""
        return self.fixed(text, 1)

    def fixed(self, text: Mapping[str, Any], count: int) -> dict[str, Tensor]:
        """Arguments with `count` rows of one length; a list of texts also says the length of each."""
        rows: dict[str, Tensor] = {}
        for name, value in text.items():
            if isinstance(value, Tensor):
                rows[name] = self._padded(value[:count].cpu())
            elif value is not None:
                entries = [entry.cpu() for entry in value[:count]]
                rows[name] = torch.cat([self._padded(entry[None]) for entry in entries])
                rows[name + LENGTHS] = torch.tensor([len(entry) for entry in entries])
        if self.MASK is not None and self.MASK not in rows:
            length = next(value for value in text.values() if value is not None).shape[1]
            rows[self.MASK] = self._padded(torch.ones(count, length, dtype=torch.long))
        return rows

    def _padded(self, rows: Tensor) -> Tensor:
        """Text [B, L, D] or a mask [B, L] with zeros up to the length that is set."""
        missing = self.max_sequence_length - rows.shape[1] if self.PADDED else 0
        if missing < 0:
            raise ValueError(
                f"data.max_sequence_length: {self.max_sequence_length} is less than a text's {rows.shape[1]} tokens"
            )
        return torch.cat([rows, rows.new_zeros(rows.shape[0], missing, *rows.shape[2:])], dim=1)

    @abstractmethod
    def latents(self, pixels: Tensor) -> Tensor:
        """Clean latents of pixels [B, 3, F, H, W] in [-1, 1], as ``Family.training_call`` takes them."""

    def prompt_arguments(self, prompt: str) -> dict[str, Tensor]:
        """Arguments that replace a prompt in a call of the pipeline, with those of an empty negative prompt."""
        names, made = self.PROMPT.items(), {}
        for which, text in (("", cut(self.text([prompt]))), ("negative_", cut(self.text([""])))):
            made |= {f"{which}{ours}": text[theirs] for ours, theirs in names}
        return self.accepted(made)

    def accepted(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Those arguments that the pipeline's call takes."""
        known = inspect.signature(type(self.pipe).__call__).parameters
        every = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
        return {name: value for name, value in arguments.items() if every or name in known}

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

    def shifted(self, moments: Tensor) -> Tensor:
        """Latents of VAEs whose configuration has one shift and one factor."""
        config = self.pipe.vae.config
        return (moments - config.shift_factor) * config.scaling_factor

    def by_channel(self, moments: Tensor) -> Tensor:
        """Latents [B, C, F, H, W] of VAEs whose configuration has a mean and a deviation of each channel."""
        config, shape = self.pipe.vae.config, (1, -1, *[1] * (moments.ndim - 2))
        low, width = (
            torch.tensor(config[name], device=moments.device).view(shape)
            for name in ("latents_mean", "latents_std")
        )
        return (moments - low) / width


def cut(text: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `Encoder.fixed` as a call has them: texts of lengths of their own as a list."""
    cut = {name: value for name, value in text.items() if not name.endswith(LENGTHS)}
    for name in cut:
        if name + LENGTHS in text:
            cut[name] = [
                row[:length] for row, length in zip(text[name], text[name + LENGTHS].tolist(), strict=True)
            ]
    return cut
