"""Pipelines of diffusers whose calls know the embedded models' own sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import (
    FluxPipeline,
    FluxTransformer2DModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from .clip_autoencoder import ClipAutoencoder
from .clips import CLIP_SIZE, FRAMES
from .scenes import PICTURE_SIZE

# diffusers' own defaults fit FLUX.1-dev: 1024 px, 512 text tokens.
FLUX_DEFAULTS: dict[str, Any] = {
    "height": PICTURE_SIZE,
    "width": PICTURE_SIZE,
    "max_sequence_length": 12,
    "num_inference_steps": 50,
    "guidance_scale": 3.5,
}

# And those of Wan 2.1: 480x832 px, 81 frames.
WAN_DEFAULTS: dict[str, Any] = {
    "height": CLIP_SIZE,
    "width": CLIP_SIZE,
    "num_frames": FRAMES,
    "max_sequence_length": 12,
    "num_inference_steps": 50,
    "guidance_scale": 4.0,
}


class EmbeddedFluxPipeline(FluxPipeline):
    """FluxPipeline with other defaults: 64x64 pictures, 12 text tokens, distilled guidance of 3.5 as FLUX.1-dev."""

    def __call__(self, prompt: str | list[str] | None = None, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(prompt, *args, **(FLUX_DEFAULTS | kwargs))


class EmbeddedLargeFluxPipeline(EmbeddedFluxPipeline):
    """The same for a transformer that makes pictures of 128 pixels; ``height=64, width=64`` gives small ones."""

    def __call__(self, prompt: str | list[str] | None = None, *args: Any, **kwargs: Any) -> Any:
        side = {"height": 2 * PICTURE_SIZE, "width": 2 * PICTURE_SIZE}
        return super().__call__(prompt, *args, **(side | kwargs))


class EmbeddedWanPipeline(WanPipeline):
    """WanPipeline with other defaults: 9 frames of 96x96, 12 text tokens, guided by two calls a step as Wan's."""

    def __call__(self, prompt: str | list[str] | None = None, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(prompt, *args, **(WAN_DEFAULTS | kwargs))


def load_wan(folder: Path) -> EmbeddedWanPipeline:
    """The embedded Wan of ``folder``, part by part: its autoencoder is not one of diffusers' own."""
    return EmbeddedWanPipeline(
        tokenizer=PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer"),
        text_encoder=UMT5EncoderModel.from_pretrained(folder / "text_encoder"),
        vae=ClipAutoencoder.from_pretrained(folder / "vae"),
        scheduler=UniPCMultistepScheduler.from_pretrained(folder / "scheduler"),
        transformer=WanTransformer3DModel.from_pretrained(folder / "transformer"),
    )


def load_large_flux(folder: Path, parts: Path) -> EmbeddedLargeFluxPipeline:
    """The pipeline of the transformer in ``folder`` with all other parts of ``parts``."""
    transformer = FluxTransformer2DModel.from_pretrained(folder / "transformer")
    return EmbeddedLargeFluxPipeline.from_pretrained(parts, transformer=transformer)
