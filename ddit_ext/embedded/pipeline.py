"""A FluxPipeline whose call knows the embedded model's own sizes."""

from __future__ import annotations

from typing import Any

from diffusers import FluxPipeline

from .scenes import PICTURE_SIZE

# diffusers' own defaults fit FLUX.1-dev: 1024 px, 512 text tokens.
CALL_DEFAULTS: dict[str, Any] = {
    "height": PICTURE_SIZE,
    "width": PICTURE_SIZE,
    "max_sequence_length": 12,
    "num_inference_steps": 50,
    "guidance_scale": 3.5,
}


class EmbeddedFluxPipeline(FluxPipeline):
    """FluxPipeline with other defaults: 64x64 pictures, 12 text tokens, distilled guidance of 3.5 as FLUX.1-dev."""

    def __call__(self, prompt: str | list[str] | None = None, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(prompt, *args, **(CALL_DEFAULTS | kwargs))
