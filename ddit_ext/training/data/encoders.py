"""What a pipeline makes of captions and pixels: the arguments that its transformer is called with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from ...coarse.base_weights import layers_of


class Encoder(ABC):
    """The text encoders and the VAE of a pipeline."""

    def __init__(self, pipe: Any, max_sequence_length: int):
        self.pipe = pipe
        self.max_sequence_length = max_sequence_length

    @property
    @abstractmethod
    def token_side(self) -> int:
        """Pixels along a side of a token of the base: of its VAE's latent pixels times its patch size."""

    @abstractmethod
    def text(self, captions: list[str]) -> dict[str, Tensor]:
        """Arguments of the transformer, one row a caption."""

    @abstractmethod
    def latents(self, pixels: Tensor) -> Tensor:
        """Clean latents of pixels [B, 3, F, H, W] in [-1, 1], as ``Family.training_call`` takes them."""

    @abstractmethod
    def prompt_arguments(self, prompt: str) -> dict[str, Tensor]:
        """Arguments that replace a prompt in a call of the pipeline, with those of an empty negative prompt."""

    @torch.no_grad()
    def _moments(self, pixels: Tensor) -> Tensor:
        vae = self.pipe.vae
        parameter = next(vae.parameters())
        return vae.encode(pixels.to(parameter.device, parameter.dtype)).latent_dist.mode().float()


class FluxEncoder(Encoder):
    """T5 and CLIP embeddings; latents [B, C, H, W]."""

    @property
    def token_side(self) -> int:
        return self.pipe.vae_scale_factor * layers_of(self.pipe.transformer).patch

    @torch.no_grad()
    def text(self, captions: list[str]) -> dict[str, Tensor]:
        embeds, pooled, _ = self.pipe.encode_prompt(
            prompt=captions, prompt_2=None, max_sequence_length=self.max_sequence_length
        )
        return {"encoder_hidden_states": embeds, "pooled_projections": pooled}

    def latents(self, pixels: Tensor) -> Tensor:
        if pixels.shape[2] != 1:
            raise ValueError(f"frames must be 1 for FLUX, got {pixels.shape[2]}")
        config = self.pipe.vae.config
        return (self._moments(pixels[:, :, 0]) - config.shift_factor) * config.scaling_factor

    def prompt_arguments(self, prompt: str) -> dict[str, Tensor]:
        both = {"": self.text([prompt]), "negative_": self.text([""])}
        return {
            f"{which}{name}": text[key]
            for which, text in both.items()
            for name, key in (
                ("prompt_embeds", "encoder_hidden_states"),
                ("pooled_prompt_embeds", "pooled_projections"),
            )
        }


class WanEncoder(Encoder):
    """UMT5 embeddings; latents [B, C, F, H, W]."""

    @property
    def token_side(self) -> int:
        return self.pipe.vae_scale_factor_spatial * layers_of(self.pipe.transformer).patch

    @torch.no_grad()
    def text(self, captions: list[str]) -> dict[str, Tensor]:
        embeds, _ = self.pipe.encode_prompt(
            prompt=captions,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
        )
        return {"encoder_hidden_states": embeds}

    def latents(self, pixels: Tensor) -> Tensor:
        config = self.pipe.vae.config
        moments = self._moments(pixels)
        mean, std = (
            torch.tensor(values, device=moments.device).view(1, -1, 1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return (moments - mean) / std

    def prompt_arguments(self, prompt: str) -> dict[str, Tensor]:
        return {
            "prompt_embeds": self.text([prompt])["encoder_hidden_states"],
            "negative_prompt_embeds": self.text([""])["encoder_hidden_states"],
        }


ENCODERS = {"flux": FluxEncoder, "wan": WanEncoder}


def encoder_for(pipe: Any, max_sequence_length: int) -> Encoder:
    """The encoder of the pipeline's family; ValueError for a family that the trainer has no data for."""
    family = layers_of(pipe.transformer).name
    if family not in ENCODERS:
        raise ValueError(
            f"training data: expected a model of the families {sorted(ENCODERS)}, got {family!r}"
        )
    return ENCODERS[family](pipe, max_sequence_length)


def told_guidance(transformer: nn.Module, guidance: float, count: int) -> dict[str, Tensor]:
    """The guidance argument [count] of a guidance-distilled model; nothing for others."""
    if not getattr(transformer.config, "guidance_embeds", False):
        return {}
    return {"guidance": torch.full((count,), float(guidance))}
