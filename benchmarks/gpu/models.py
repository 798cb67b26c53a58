"""Transformers of real geometry with random weights, and the arguments of one call of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ddit_ext import cells as cell_views

P = 2


@dataclass(frozen=True)
class Model:
    """One model family at one size of picture or video."""

    name: str
    transformer: str  # its class in diffusers
    family: str  # its class in ddit_ext.families
    config: dict[str, Any]
    grid: tuple[int, int, int]  # frames, rows and columns of base cells
    text_tokens: int
    call: Callable[[Model, str, torch.dtype], dict[str, Any]]
    pipeline: Callable[[nn.Module], Any]
    pipeline_call: Callable[[Model, dict[str, Any]], dict[str, Any]]
    view: Callable[[Model, Tensor], Tensor]  # from latents as the sampler has them to cells

    @property
    def tokens(self) -> int:
        frames, rows, columns = self.grid
        return frames * rows * columns

    def build(self, device: str, dtype: torch.dtype) -> nn.Module:
        """The transformer, made on the device: random weights, as `from_pretrained` would have their dtypes."""
        import diffusers

        kind = getattr(diffusers, self.transformer)
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                model = kind(**self.config)
        finally:
            torch.set_default_dtype(before)
        kept = set(getattr(kind, "_keep_in_fp32_modules", None) or ())
        for name, parameter in model.named_parameters():
            if kept & set(name.split(".")):
                parameter.data = parameter.data.float()
        return model.eval().requires_grad_(False)


def _flux_call(model: Model, device: str, dtype: torch.dtype) -> dict[str, Any]:
    _, rows, columns = model.grid
    ids = torch.zeros(rows, columns, 3, device=device)
    ids[..., 1] = torch.arange(rows, device=device)[:, None]
    ids[..., 2] = torch.arange(columns, device=device)
    width, pooled = model.config["joint_attention_dim"], model.config["pooled_projection_dim"]
    arguments = {
        "hidden_states": torch.randn(1, model.tokens, model.config["in_channels"], device=device).to(dtype),
        "timestep": torch.full((1,), 0.75, device=device, dtype=dtype),
        "encoder_hidden_states": torch.randn(1, model.text_tokens, width, device=device).to(dtype),
        "pooled_projections": torch.randn(1, pooled, device=device).to(dtype),
        "img_ids": ids.view(-1, 3).to(dtype),
        "txt_ids": torch.zeros(model.text_tokens, 3, device=device, dtype=dtype),
        "return_dict": False,
    }
    if model.config["guidance_embeds"]:
        arguments["guidance"] = torch.full((1,), 3.5, device=device)
    return arguments


def _flux_pipeline(transformer: nn.Module) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    nothing = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return FluxPipeline(scheduler=scheduler, transformer=transformer, **nothing)


def _flux_pipeline_call(model: Model, arguments: dict[str, Any]) -> dict[str, Any]:
    _, rows, columns = model.grid
    return {
        "prompt_embeds": arguments["encoder_hidden_states"],
        "pooled_prompt_embeds": arguments["pooled_projections"],
        "latents": arguments["hidden_states"],
        "height": rows * 16,  # 2 latent pixels a cell, 8 pixels each
        "width": columns * 16,
    }


def _wan_call(model: Model, device: str, dtype: torch.dtype) -> dict[str, Any]:
    frames, rows, columns = model.grid
    latent = torch.randn(1, model.config["in_channels"], frames, rows * P, columns * P, device=device)
    text = torch.randn(1, model.text_tokens, model.config["text_dim"], device=device)
    return {
        "hidden_states": latent.to(dtype),
        "timestep": torch.full((1,), 750.0, device=device),
        "encoder_hidden_states": text.to(dtype),
        "return_dict": False,
    }


def _wan_pipeline(transformer: nn.Module) -> Any:
    from diffusers import UniPCMultistepScheduler, WanPipeline

    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
    )
    nothing = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    return WanPipeline(scheduler=scheduler, transformer=transformer, **nothing)


def _wan_pipeline_call(model: Model, arguments: dict[str, Any]) -> dict[str, Any]:
    frames, rows, columns = model.grid
    return {
        "prompt_embeds": arguments["encoder_hidden_states"],
        "latents": arguments["hidden_states"].float(),
        "num_frames": (frames - 1) * 4 + 1,
        "height": rows * 16,
        "width": columns * 16,
        "guidance_scale": 1.0,  # one call a step
    }


def _model(family: str, name: str, config: dict[str, Any], grid: tuple[int, int, int], text: int) -> Model:
    if family == "flux":
        return Model(
            name,
            "FluxTransformer2DModel",
            "FluxFamily",
            config,
            grid,
            text,
            _flux_call,
            _flux_pipeline,
            _flux_pipeline_call,
            lambda model, latents: cell_views.from_packed(latents, *model.grid[1:], P),
        )
    return Model(
        name,
        "WanTransformer3DModel",
        "WanFamily",
        config,
        grid,
        text,
        _wan_call,
        _wan_pipeline,
        _wan_pipeline_call,
        lambda model, latents: cell_views.from_latents(latents, P),
    )


FLUX_DEV = dict(
    patch_size=1,
    in_channels=64,
    num_layers=19,
    num_single_layers=38,
    attention_head_dim=128,
    num_attention_heads=24,
    joint_attention_dim=4096,
    pooled_projection_dim=768,
    guidance_embeds=True,
    axes_dims_rope=(16, 56, 56),
)
WAN_1_3B = dict(
    patch_size=(1, 2, 2),
    num_attention_heads=12,
    attention_head_dim=128,
    in_channels=16,
    out_channels=16,
    text_dim=4096,
    freq_dim=256,
    ffn_dim=8960,
    num_layers=30,
    cross_attn_norm=True,
    qk_norm="rms_norm_across_heads",
    eps=1e-6,
)
TINY_FLUX = FLUX_DEV | dict(
    in_channels=16,
    num_layers=1,
    num_single_layers=0,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=8,
    pooled_projection_dim=8,
    axes_dims_rope=(4, 6, 6),
)
TINY_WAN = WAN_1_3B | dict(
    num_attention_heads=2,
    attention_head_dim=12,
    in_channels=4,
    out_channels=4,
    text_dim=8,
    freq_dim=8,
    ffn_dim=32,
    num_layers=1,
)


def models(tiny: bool) -> tuple[Model, ...]:
    """FLUX.1-dev at 1024x1024 and Wan 2.1 1.3B at 832x480 with 81 frames; or tiny ones."""
    if tiny:
        return (
            _model("flux", "tiny FLUX", TINY_FLUX, (1, 6, 8), 3),
            _model("wan", "tiny Wan", TINY_WAN, (2, 4, 6), 3),
        )
    return (
        _model("flux", "FLUX.1-dev, 1024x1024", FLUX_DEV, (1, 64, 64), 512),
        _model("wan", "Wan 2.1 1.3B, 832x480, 81 frames", WAN_1_3B, (21, 30, 52), 512),
    )
