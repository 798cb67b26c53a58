"""Tiny pipelines that begin from a picture: editing with references, img2img, image-to-video, ControlNet.

They share the transformers of `flow_families`; only what encodes a picture is added.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from flow_families import FAMILIES, Family
from flow_families.family import SIDE, TEXT, text
from PIL import Image

BY_NAME = {family.name: family for family in FAMILIES}
# Editing scales its references to a number of pixels; the model's own is a million.
_dimensions = pipeline_qwenimage_edit.calculate_dimensions
pipeline_qwenimage_edit.calculate_dimensions = lambda area, ratio: _dimensions(SIDE * SIDE, ratio)
pipeline_qwenimage_edit_plus.VAE_IMAGE_SIZE = SIDE * SIDE
pipeline_qwenimage_edit_plus.CONDITION_IMAGE_SIZE = SIDE * SIDE


def picture(seed: int = 5) -> Image.Image:
    noise = torch.rand(SIDE, SIDE, 3, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray((noise * 255).to(torch.uint8).numpy())


def _flux2_vae() -> Any:
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(4, 4, 4, 4), latent_channels=4, norm_num_groups=2, layers_per_block=1
    )
    vae.bn.running_var.fill_(2.0)
    return vae.eval()


class _Eyes(torch.nn.Module):
    """In the place of a vision model: 4 tokens of 12 features."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.device, self.dtype = self.scale.device, self.scale.dtype

    def forward(self, pixel_values: torch.Tensor) -> Any:
        return SimpleNamespace(last_hidden_state=self.scale * text(1, 4, 12, seed=8))


class _Batch(dict):
    def to(self, **where: Any) -> _Batch:
        return self


class _Extractor:
    """In the place of what scales a picture for the vision model."""

    def preprocess(self, **given: Any) -> _Batch:
        return _Batch(pixel_values=torch.zeros(1))


def _eyes() -> dict[str, Any]:
    guider = diffusers.ClassifierFreeGuidance(guidance_scale=6.0)
    return {
        "vae": BY_NAME["HunyuanVideo 1.5"].parts()["vae"],
        "guider": guider,
        "image_encoder": _Eyes(),
        "feature_extractor": _Extractor(),
    }


def _controlled(kind: str, **config: Any) -> Any:
    net = getattr(diffusers, kind)(**config).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net


def _family(name: str, pipeline: str, parts: Any, **changes: Any) -> Family:
    """A family's other pipeline; `arguments` are added to those of its first."""
    base, more = BY_NAME[name], changes.pop("arguments", {})
    without = changes.pop("without", ())

    def arguments(batch: int) -> dict[str, Any]:
        given = base.arguments(batch) | (more(batch) if callable(more) else more)
        return {key: value for key, value in given.items() if key not in without}

    return replace(base, pipeline=pipeline, parts=parts, arguments=arguments, **changes)


def _negative(batch: int) -> dict[str, Any]:
    return {"negative_prompt_embeds": text(batch, TEXT, 16, seed=2)}


def _image(**more: Any) -> Any:
    return lambda batch: {"image": picture(), **more}


EDITS = {
    "FLUX.2 klein": _family(
        "FLUX.2", "Flux2KleinPipeline", lambda: {"vae": _flux2_vae()}, arguments=_negative, branches=2
    ),
    "FLUX.2 edit": _family(
        "FLUX.2", "Flux2Pipeline", lambda: {"vae": _flux2_vae()}, arguments=_image()
    ),
    "FLUX.2 klein inpaint": _family(
        "FLUX.2",
        "Flux2KleinInpaintPipeline",
        lambda: {"vae": _flux2_vae()},
        arguments=lambda batch: {"image": picture(), "mask_image": picture(7), "strength": 0.8} | _negative(batch),
        branches=2,
    ),
    "FLUX.2 klein edit": _family(
        "FLUX.2",
        "Flux2KleinPipeline",
        lambda: {"vae": _flux2_vae()},
        arguments=lambda batch: {"image": [picture(), picture(6)]} | _negative(batch),
        branches=2,
    ),
    "Qwen-Image Edit-Plus": _family(
        "Qwen-Image",
        "QwenImageEditPlusPipeline",
        lambda: {"vae": BY_NAME["Qwen-Image"].vae()},
        arguments=lambda batch: {"image": [picture(), picture(6)]},
    ),
    "Qwen-Image Edit": _family(
        "Qwen-Image", "QwenImageEditPipeline", lambda: {"vae": BY_NAME["Qwen-Image"].vae()}, arguments=_image()
    ),
    "Qwen-Image inpaint": BY_NAME["Qwen-Image"].variant("inpaint"),
    "Qwen-Image img2img": _family(
        "Qwen-Image", "QwenImageImg2ImgPipeline", lambda: {"vae": BY_NAME["Qwen-Image"].vae()}, arguments=_image(strength=0.8)
    ),
    "Qwen-Image ControlNet": _family(
        "Qwen-Image",
        "QwenImageControlNetPipeline",
        lambda: {
            "vae": BY_NAME["Qwen-Image"].vae(),
            "controlnet": _controlled(
                "QwenImageControlNetModel",
                in_channels=16,
                out_channels=4,
                num_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=16,
                axes_dims_rope=(8, 4, 4),
            ),
        },
        arguments=lambda batch: {"control_image": picture()},
    ),
    "Z-Image inpaint": BY_NAME["Z-Image"].variant("inpaint"),
    "Z-Image ControlNet": _family(
        "Z-Image",
        "ZImageControlNetPipeline",
        lambda: {
            "vae": BY_NAME["Z-Image"].vae(),
            "controlnet": _controlled(
                "ZImageControlNetModel",
                control_layers_places=[0],
                control_in_dim=16,
                dim=32,
                n_refiner_layers=1,
                n_heads=2,
                n_kv_heads=2,
            ),
        },
        arguments=lambda batch: {"control_image": picture()},
    ),
    "Z-Image img2img": _family(
        "Z-Image", "ZImageImg2ImgPipeline", lambda: {"vae": BY_NAME["Z-Image"].vae()}, arguments=_image(strength=0.8)
    ),
    "Stable Diffusion 3 inpaint": BY_NAME["Stable Diffusion 3"].variant("inpaint"),
    "Stable Diffusion 3 img2img": _family(
        "Stable Diffusion 3", "StableDiffusion3Img2ImgPipeline", lambda: {"vae": BY_NAME["Z-Image"].vae()}, arguments=_image(strength=0.8)
    ),
    "Stable Diffusion 3 ControlNet": _family(
        "Stable Diffusion 3",
        "StableDiffusion3ControlNetPipeline",
        lambda: {
            "vae": BY_NAME["Z-Image"].vae(),
            "controlnet": _controlled(
                "SD3ControlNetModel",
                sample_size=16,
                patch_size=2,
                in_channels=16,
                num_layers=1,
                attention_head_dim=8,
                num_attention_heads=4,
                joint_attention_dim=32,
                caption_projection_dim=32,
                pooled_projection_dim=32,
                out_channels=16,
            ),
        },
        arguments=lambda batch: {"control_image": picture()},
    ),
    "HunyuanVideo 1.5 image-to-video": _family(
        "HunyuanVideo 1.5",
        "HunyuanVideo15ImageToVideoPipeline",
        _eyes,
        arguments=_image(),
        without=("height", "width"),
    ),
}  # fmt: skip
