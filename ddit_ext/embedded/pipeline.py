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
    "negative_prompt": "",
    "true_cfg_scale": 4.0,
}


class EmbeddedFluxPipeline(FluxPipeline):
    """FluxPipeline with other defaults: 64x64 pictures, 12 text tokens, classifier-free guidance of 4."""

    def __call__(self, prompt: str | list[str] | None = None, *args: Any, **kwargs: Any) -> Any:
        settings = CALL_DEFAULTS | kwargs
        embeds = settings.get("prompt_embeds")
        if settings.get("negative_prompt_embeds") is not None:
            settings.pop("negative_prompt")
        elif isinstance(settings["negative_prompt"], str):
            # diffusers wants as many of them as there are prompts.
            count = len(embeds) if embeds is not None else len(prompt) if isinstance(prompt, list) else 1
            settings["negative_prompt"] = [settings["negative_prompt"]] * count
        return super().__call__(prompt, *args, **settings)
