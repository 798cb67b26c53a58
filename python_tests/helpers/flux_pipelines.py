"""Tiny random FLUX pipelines, built in code: no hub, no text encoders (prompt embeddings are passed).

4 latent channels, packed 2x2 to 16 features; the VAE halves a side, so a token is 4x4 pixels.
`size(rows, columns)` gives the height and width of a picture with that many tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxControlImg2ImgPipeline,
    FluxControlInpaintPipeline,
    FluxControlNetImg2ImgPipeline,
    FluxControlNetInpaintPipeline,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxControlPipeline,
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxKontextInpaintPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
)
from threads import one_thread

FEATURES = 16
WIDTH = 32
TEXT = 6
PIXELS = 4

KINDS = ("text", "img2img", "inpaint", "fill", "kontext", "control", "controlnet", "ip_adapter")
COMBINED = {
    "control img2img": FluxControlImg2ImgPipeline,
    "control inpaint": FluxControlInpaintPipeline,
    "controlnet img2img": FluxControlNetImg2ImgPipeline,
    "controlnet inpaint": FluxControlNetInpaintPipeline,
    "kontext inpaint": FluxKontextInpaintPipeline,
}
"""Kinds that are two of KINDS at once."""
_CLASSES = {
    "text": FluxPipeline,
    "ip_adapter": FluxPipeline,
    "img2img": FluxImg2ImgPipeline,
    "inpaint": FluxInpaintPipeline,
    "fill": FluxFillPipeline,
    "kontext": FluxKontextPipeline,
    "control": FluxControlPipeline,
    "controlnet": FluxControlNetPipeline,
    **COMBINED,
}
_MODEL = dict(
    patch_size=1,
    num_layers=1,
    num_single_layers=1,
    attention_head_dim=16,
    num_attention_heads=WIDTH // 16,
    joint_attention_dim=32,
    pooled_projection_dim=32,
    axes_dims_rope=(4, 4, 8),
)


def make_transformer(in_channels: int = FEATURES, seed: int = 0, **config: Any) -> FluxTransformer2DModel:
    """A FLUX transformer of width 32 with random weights, whose output depends on every input."""
    torch.manual_seed(seed)
    config = {**_MODEL, "in_channels": in_channels, "out_channels": FEATURES, **config}
    model = FluxTransformer2DModel(**config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return model


def make_vae() -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
        sample_size=32,
        shift_factor=0.0,
        scaling_factor=1.0,
    ).eval()


def make_scheduler(**config: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **config)


def make_pipeline(kind: str = "text", dtype: torch.dtype = torch.float32, **config: Any) -> Any:
    """A pipeline of one of KINDS or COMBINED; config goes to the transformer."""
    first = kind.split()[0]
    # Fill: latent, masked latent and the packed mask (the VAE's factor squared, times 2x2).
    in_channels = {"fill": 3 * FEATURES, "control": 2 * FEATURES}.get(first, FEATURES)
    transformer = make_transformer(in_channels, guidance_embeds=first in ("fill", "kontext"), **config)
    if kind == "ip_adapter":
        transformer._load_ip_adapter_weights(_ip_adapter_weights(), low_cpu_mem_usage=False)
        transformer.eval().requires_grad_(False)
    parts: dict[str, Any] = dict(
        scheduler=make_scheduler(),
        vae=make_vae(),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )
    if first == "controlnet":
        torch.manual_seed(2)
        parts["controlnet"] = FluxControlNetModel(**{**_MODEL, "in_channels": FEATURES}).eval()
        for parameter in parts["controlnet"].parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    pipe = _CLASSES[kind](**parts).to(dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def size(rows: int, columns: int) -> dict[str, int]:
    return {"height": rows * PIXELS, "width": columns * PIXELS}


def make_call(
    kind: str = "text",
    rows: int = 6,
    columns: int = 4,
    *,
    batch: int = 1,
    steps: int = 6,
    dtype: torch.dtype = torch.float32,
    true_cfg: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """The arguments of a call to `make_pipeline(kind)`; the result is `images` as latents [batch, N, 16]."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    shape = size(rows, columns)
    height, width = shape["height"], shape["width"]
    call: dict[str, Any] = dict(
        prompt_embeds=noise(batch, TEXT, 32),
        pooled_prompt_embeds=noise(batch, 32),
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
        **shape,
    )
    if true_cfg:
        call |= dict(
            negative_prompt_embeds=noise(batch, TEXT, 32),
            negative_pooled_prompt_embeds=noise(batch, 32),
            true_cfg_scale=3.0,
        )
    picture = torch.rand(batch, 3, height, width, generator=generator).to(dtype)
    mask = torch.zeros(batch, 1, height, width)
    mask[..., : width // 2] = 1
    kinds = set(kind.split())
    if kinds & {"img2img", "inpaint", "fill", "kontext"}:
        call["image"] = picture
    if "img2img" in kinds:
        call["strength"] = 0.9
    if kinds & {"inpaint", "fill"}:
        call["mask_image"] = mask
    if "inpaint" in kinds:
        call["strength"] = 0.95
    if "kontext" in kinds:
        call |= dict(max_area=height * width, _auto_resize=False)
    if kinds & {"control", "controlnet"}:
        call["control_image"] = picture
    if kind == "ip_adapter":
        call["ip_adapter_image_embeds"] = [noise(batch, 1, 32)]
        call["negative_ip_adapter_image_embeds"] = [noise(batch, 1, 32)]
    return call


def run(pipe: Any, call: dict[str, Any]) -> torch.Tensor:
    """The latents [B, N, 16] a call ends with; calls with the same arguments are the same."""
    call = dict(call, generator=torch.Generator().manual_seed(call["generator"].initial_seed()))
    with one_thread():
        return pipe(**call).images


def _ip_adapter_weights() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.2

    layers = {
        f"0.{name}.{part}": noise(*shape)
        for name in ("to_k_ip", "to_v_ip")
        for part, shape in (("weight", (WIDTH, 32)), ("bias", (WIDTH,)))
    }
    projection = {
        "proj.weight": noise(4 * 32, 32),
        "proj.bias": noise(4 * 32),
        "norm.weight": torch.ones(32),
        "norm.bias": torch.zeros(32),
    }
    return {"ip_adapter": layers, "image_proj": projection}
