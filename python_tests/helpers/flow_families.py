"""Tiny random pipelines of the flow-matching families of diffusers, from its own classes, built in code without any hub.

Prompt embeddings are passed, so no text encoder is needed; latents come back, so most need no autoencoder. Each has
random weights and a few thousand parameters. ``FAMILIES`` is what tests run over.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

TEXT = 6  # tokens of a prompt
SIDE = 64  # pixels


@dataclass(frozen=True)
class Family:
    """One pipeline of a family.

    Attributes:
        name: as docs call it.
        pipeline: the class in diffusers.
        model: class and configuration of its transformer.
        arguments: batch size -> what the pipeline is called with, besides steps, generator and output type.
        branches: model calls a step.
        scheduler: configuration of its FlowMatchEulerDiscreteScheduler.
        parts: further parts of the pipeline, made anew for each.
        output: where the latents are in what the pipeline returns.
        batches: whether it takes several prompts.
        bfloat16: whether the pipeline itself runs in it after ``pipe.to``.
        heeds: whether it takes the latents that a callback returns.
        variants: img2img and inpaint pipelines of the family that take the same model and arguments.
        vae: for these.
    """

    name: str
    pipeline: str
    model: tuple[str, dict[str, Any]]
    arguments: Callable[[int], dict[str, Any]]
    branches: int = 1
    scheduler: dict[str, Any] = field(default_factory=dict)
    parts: Callable[[], dict[str, Any]] = dict
    output: str = "images"
    batches: bool = True
    bfloat16: bool = True
    heeds: bool = True
    variants: dict[str, str] = field(default_factory=dict)
    vae: Callable[[], Any] | None = None

    def takes(self, name: str) -> bool:
        """Whether the pipeline's call has an argument of this name."""
        return name in inspect.signature(getattr(diffusers, self.pipeline).__call__).parameters

    def variant(self, kind: str) -> Family:
        """The family's img2img or inpaint pipeline as a family of its own."""
        image = {"image": torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))}
        if kind == "inpaint":
            image["mask_image"] = (torch.arange(SIDE) > SIDE // 2).float().expand(1, 1, SIDE, SIDE)
        made = getattr(diffusers, self.variants[kind])
        known = inspect.signature(made.__call__).parameters

        def arguments(batch: int) -> dict[str, Any]:
            given = {name: value for name, value in self.arguments(batch).items() if name in known}
            return given | {name: torch.cat([value] * batch) for name, value in image.items()}

        return replace(
            self,
            pipeline=self.variants[kind],
            arguments=arguments,
            parts=lambda: {"vae": self.vae()},
            variants={},
        )

    def build(self, dtype: torch.dtype = torch.float32) -> Any:
        """The pipeline, the same at each call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            kind, config = self.model
            transformer = getattr(diffusers, kind)(**config).eval().requires_grad_(False)
            _randomize(transformer)
            parts = {"transformer": transformer, **self.parts()}
        made = getattr(diffusers, self.pipeline)
        wanted = inspect.signature(made.__init__).parameters.values()
        named = {
            each.name: parts.get(each.name)
            for each in wanted
            if each.name != "self" and each.default is each.empty
        }
        named |= parts | {"scheduler": FlowMatchEulerDiscreteScheduler(**self.scheduler)}
        pipe = made(**named)
        if dtype is not torch.float32:
            pipe.to(dtype)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def run(self, pipe: Any, batch: int = 1, steps: int = 8, **further: Any) -> torch.Tensor:
        """The latents of one call."""
        given = _to(self.arguments(batch), pipe.transformer.dtype)
        given |= {"num_inference_steps": steps, "output_type": "latent", **further}
        if "generator" not in further:
            given["generator"] = torch.Generator().manual_seed(3)
        with torch.no_grad():
            return getattr(pipe(**given), self.output)


def _randomize(model: torch.nn.Module) -> None:
    """Weights of which every output depends on every input: none stays zero, as some are made."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)


def _to(given: Any, dtype: torch.dtype) -> Any:
    if isinstance(given, torch.Tensor) and given.is_floating_point():
        return given.to(dtype)
    if isinstance(given, list):
        return [_to(each, dtype) for each in given]
    if isinstance(given, dict):
        return {name: _to(each, dtype) for name, each in given.items()}
    return given


def _text(batch: int, *shape: int, seed: int = 1) -> torch.Tensor:
    """Random embeddings; a sample's do not depend on the batch's size."""
    generators = (torch.Generator().manual_seed(seed + 100 * index) for index in range(batch))
    return torch.stack([torch.randn(*shape, generator=generator) for generator in generators])


def _mask(batch: int, tokens: int = TEXT, dtype: torch.dtype = torch.long) -> torch.Tensor:
    return torch.ones(batch, tokens, dtype=dtype)


def _picture(**further: Any) -> dict[str, Any]:
    return {"height": SIDE, "width": SIDE, **further}


def _clip(frames: int = 5, **further: Any) -> dict[str, Any]:
    return _picture(num_frames=frames, **further)


def _pair(batch: int, *shape: int, name: str = "prompt_embeds") -> dict[str, torch.Tensor]:
    """Embeddings of the prompt and of the negative one."""
    return {name: _text(batch, *shape), f"negative_{name}": _text(batch, *shape, seed=2)}


def _masks(batch: int, name: str, dtype: torch.dtype = torch.long) -> dict[str, torch.Tensor]:
    return {name: _mask(batch, dtype=dtype), f"negative_{name}": _mask(batch, dtype=dtype)}


def _vae(channels: int = 4) -> diffusers.AutoencoderKL:
    """8x8 pixels to a latent pixel."""
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
        norm_num_groups=2,
        layers_per_block=1,
        shift_factor=0.0,
        scaling_factor=1.0,
    ).eval()


def _qwen_vae() -> diffusers.AutoencoderKLQwenImage:
    return diffusers.AutoencoderKLQwenImage(
        base_dim=12,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    ).eval()


def _hunyuan_vae() -> diffusers.AutoencoderKLHunyuanVideo15:
    return diffusers.AutoencoderKLHunyuanVideo15(
        latent_channels=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=2,
        downsample_match_channel=False,
        upsample_match_channel=False,
    ).eval()


def _magvit() -> diffusers.AutoencoderKLMagvit:
    return diffusers.AutoencoderKLMagvit(
        down_block_types=("SpatialDownBlock3D", *("SpatialTemporalDownBlock3D",) * 3),
        up_block_types=("SpatialUpBlock3D", *("SpatialTemporalUpBlock3D",) * 3),
        block_out_channels=(4, 4, 4, 4),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        spatial_group_norm=False,
    ).eval()


class _Unchecked:
    """In the place of Cosmos' guardrail, which is a package of its own."""

    def to(self, device: Any) -> None:
        pass

    def check_text_safety(self, prompt: str) -> bool:
        return True


FAMILIES = [
    Family(
        "FLUX.1",
        "FluxPipeline",
        (
            "FluxTransformer2DModel",
            dict(
                in_channels=16,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=32,
                pooled_projection_dim=32,
                axes_dims_rope=(4, 4, 8),
                guidance_embeds=True,
            ),
        ),
        lambda n: _picture(prompt_embeds=_text(n, TEXT, 32), pooled_prompt_embeds=_text(n, 32)),
        scheduler={"use_dynamic_shifting": True},
        variants={"img2img": "FluxImg2ImgPipeline", "inpaint": "FluxInpaintPipeline"},
        vae=lambda: _vae(),
    ),
    Family(
        "FLUX.2",
        "Flux2Pipeline",
        (
            "Flux2Transformer2DModel",
            dict(
                in_channels=16,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=16,
                axes_dims_rope=(4, 4, 4, 4),
            ),
        ),
        lambda n: _picture(prompt_embeds=_text(n, TEXT, 16)),
        scheduler={"use_dynamic_shifting": True},
    ),
    Family(
        "Qwen-Image",
        "QwenImagePipeline",
        (
            "QwenImageTransformer2DModel",
            dict(
                in_channels=16,
                out_channels=4,
                num_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=16,
                axes_dims_rope=(8, 4, 4),
            ),
        ),
        lambda n: _picture(**_pair(n, TEXT, 16), **_masks(n, "prompt_embeds_mask")),
        branches=2,
        scheduler={"use_dynamic_shifting": True, "shift_terminal": 0.02},
        variants={"img2img": "QwenImageImg2ImgPipeline", "inpaint": "QwenImageInpaintPipeline"},
        vae=lambda: _qwen_vae(),
    ),
    Family(
        "Z-Image",
        "ZImagePipeline",
        (
            "ZImageTransformer2DModel",
            dict(
                in_channels=16,
                dim=32,
                n_layers=1,
                n_refiner_layers=1,
                n_heads=2,
                n_kv_heads=2,
                cap_feat_dim=16,
                axes_dims=[8, 4, 4],
                axes_lens=[256, 32, 32],
            ),
        ),
        lambda n: _picture(
            prompt_embeds=list(_text(n, TEXT, 16)),
            negative_prompt_embeds=list(_text(n, TEXT, 16, seed=2)),
        ),
        scheduler={"shift": 3.0},
        variants={"img2img": "ZImageImg2ImgPipeline", "inpaint": "ZImageInpaintPipeline"},
        vae=lambda: _vae(16),
    ),
    Family(
        "Stable Diffusion 3",
        "StableDiffusion3Pipeline",
        (
            "SD3Transformer2DModel",
            dict(
                sample_size=16,
                patch_size=2,
                in_channels=16,
                num_layers=1,
                attention_head_dim=8,
                num_attention_heads=4,
                caption_projection_dim=32,
                joint_attention_dim=32,
                pooled_projection_dim=32,
                out_channels=16,
            ),
        ),
        lambda n: _picture(**_pair(n, TEXT, 32), **_pair(n, 32, name="pooled_prompt_embeds")),
        scheduler={"shift": 3.0},
        variants={"img2img": "StableDiffusion3Img2ImgPipeline", "inpaint": "StableDiffusion3InpaintPipeline"},
        vae=lambda: _vae(16),
    ),
    Family(
        "Chroma",
        "ChromaPipeline",
        (
            "ChromaTransformer2DModel",
            dict(
                in_channels=16,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=32,
                axes_dims_rope=(4, 4, 8),
                approximator_hidden_dim=32,
                approximator_layers=1,
                approximator_num_channels=16,
            ),
        ),
        lambda n: _picture(**_pair(n, TEXT, 32), **_masks(n, "prompt_attention_mask", torch.bool)),
        branches=2,
        scheduler={"use_beta_sigmas": True},
        variants={"img2img": "ChromaImg2ImgPipeline"},
        vae=lambda: _vae(),
    ),
    Family(
        "HunyuanVideo",
        "HunyuanVideoPipeline",
        (
            "HunyuanVideoTransformer3DModel",
            dict(
                in_channels=4,
                out_channels=4,
                num_attention_heads=2,
                attention_head_dim=10,
                num_layers=1,
                num_single_layers=1,
                num_refiner_layers=1,
                patch_size=1,
                text_embed_dim=16,
                pooled_projection_dim=8,
                rope_axes_dim=(2, 4, 4),
            ),
        ),
        lambda n: _clip(
            prompt_embeds=_text(n, TEXT, 16), pooled_prompt_embeds=_text(n, 8), prompt_attention_mask=_mask(n)
        ),
        scheduler={"shift": 7.0},
        output="frames",
    ),
    Family(
        "HunyuanVideo 1.5",
        "HunyuanVideo15Pipeline",
        (
            "HunyuanVideo15Transformer3DModel",
            dict(
                in_channels=9,
                out_channels=4,
                num_attention_heads=2,
                attention_head_dim=8,
                num_layers=1,
                num_refiner_layers=1,
                mlp_ratio=2.0,
                patch_size=1,
                text_embed_dim=16,
                text_embed_2_dim=16,
                image_embed_dim=12,
                rope_axes_dim=(2, 2, 4),
                target_size=16,
            ),
        ),
        lambda n: (
            _clip(
                3,
                **_pair(n, TEXT, 16),
                **_masks(n, "prompt_embeds_mask"),
                **_pair(n, TEXT, 16, name="prompt_embeds_2"),
                **_masks(n, "prompt_embeds_mask_2"),
            )
            | {"height": 32, "width": 32}
        ),
        branches=2,
        scheduler={"shift": 7.0},
        parts=lambda: {"guider": diffusers.ClassifierFreeGuidance(guidance_scale=6.0), "vae": _hunyuan_vae()},
        output="frames",
    ),
    Family(
        "HunyuanImage 2.1",
        "HunyuanImagePipeline",
        (
            "HunyuanImageTransformer2DModel",
            dict(
                in_channels=4,
                out_channels=4,
                num_attention_heads=2,
                attention_head_dim=8,
                num_layers=1,
                num_single_layers=1,
                num_refiner_layers=1,
                patch_size=(1, 1),
                text_embed_dim=16,
                text_embed_2_dim=16,
                rope_axes_dim=(4, 4),
            ),
        ),
        lambda n: _picture(
            **_pair(n, TEXT, 16),
            **_masks(n, "prompt_embeds_mask"),
            **_pair(n, TEXT, 16, name="prompt_embeds_2"),
            **_masks(n, "prompt_embeds_mask_2"),
        ),
        branches=2,
        scheduler={"shift": 4.0},
        parts=lambda: {
            "guider": diffusers.AdaptiveProjectedMixGuidance(),
            "ocr_guider": diffusers.AdaptiveProjectedMixGuidance(),
        },
    ),
    Family(
        "LTX-Video",
        "LTXPipeline",
        (
            "LTXVideoTransformer3DModel",
            dict(
                in_channels=8,
                out_channels=8,
                num_attention_heads=2,
                attention_head_dim=8,
                cross_attention_dim=16,
                num_layers=1,
                caption_channels=16,
            ),
        ),
        lambda n: _clip(9, **_pair(n, TEXT, 16), **_masks(n, "prompt_attention_mask")),
        scheduler={"use_dynamic_shifting": True, "shift_terminal": 0.1},
        output="frames",
    ),
    Family(
        "Wan 2.1",
        "WanPipeline",
        (
            "WanTransformer3DModel",
            dict(
                num_attention_heads=2,
                attention_head_dim=12,
                in_channels=16,
                out_channels=16,
                text_dim=32,
                freq_dim=32,
                ffn_dim=32,
                num_layers=1,
                rope_max_seq_len=32,
            ),
        ),
        lambda n: _clip(**_pair(n, TEXT, 32)),
        branches=2,
        scheduler={"shift": 3.0},
        output="frames",
    ),
    Family(
        "Mochi",
        "MochiPipeline",
        (
            "MochiTransformer3DModel",
            dict(
                num_attention_heads=2,
                attention_head_dim=8,
                num_layers=2,
                pooled_projection_dim=16,
                in_channels=12,
                text_embed_dim=32,
                time_embed_dim=4,
                max_sequence_length=16,
            ),
        ),
        lambda n: _clip(7, **_pair(n, TEXT, 32), **_masks(n, "prompt_attention_mask", torch.bool)),
        scheduler={"invert_sigmas": True},
        output="frames",
    ),
    Family(
        "Lumina 2",
        "Lumina2Pipeline",
        (
            "Lumina2Transformer2DModel",
            dict(
                sample_size=8,
                in_channels=4,
                hidden_size=24,
                num_layers=1,
                num_refiner_layers=1,
                num_attention_heads=3,
                num_kv_heads=1,
                multiple_of=16,
                scaling_factor=1.0,
                axes_dim_rope=(4, 2, 2),
                cap_feat_dim=8,
            ),
        ),
        lambda n: _picture(**_pair(n, TEXT, 8), **_masks(n, "prompt_attention_mask")),
        branches=2,
        scheduler={"shift": 6.0},
    ),
    Family(
        "Sana",
        "SanaPipeline",
        (
            "SanaTransformer2DModel",
            dict(
                in_channels=4,
                out_channels=4,
                num_layers=1,
                num_attention_heads=2,
                attention_head_dim=4,
                num_cross_attention_heads=2,
                cross_attention_head_dim=4,
                cross_attention_dim=8,
                caption_channels=8,
                sample_size=32,
            ),
        ),
        lambda n: _picture(
            **_pair(n, TEXT, 8),
            **_masks(n, "prompt_attention_mask"),
            use_resolution_binning=False,
            negative_prompt=None,
        ),
        scheduler={"shift": 3.0},
    ),
    Family(
        "AuraFlow",
        "AuraFlowPipeline",
        (
            "AuraFlowTransformer2DModel",
            dict(
                sample_size=8,
                in_channels=4,
                out_channels=4,
                num_mmdit_layers=1,
                num_single_dit_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                caption_projection_dim=16,
                joint_attention_dim=16,
                pos_embed_max_size=64,
            ),
        ),
        lambda n: _picture(**_pair(n, TEXT, 16), **_masks(n, "prompt_attention_mask")),
        scheduler={"shift": 1.73},
    ),
    Family(
        "Kandinsky 5",
        "Kandinsky5T2VPipeline",
        (
            "Kandinsky5Transformer3DModel",
            dict(
                in_visual_dim=4,
                in_text_dim=16,
                in_text_dim2=8,
                time_dim=16,
                out_visual_dim=4,
                model_dim=16,
                ff_dim=32,
                num_text_blocks=1,
                num_visual_blocks=1,
                axes_dims=(1, 1, 2),
            ),
        ),
        lambda n: _clip(
            **_pair(n, TEXT, 16, name="prompt_embeds_qwen"),
            **_pair(n, 8, name="prompt_embeds_clip"),
            prompt_cu_seqlens=torch.arange(n + 1, dtype=torch.int32) * TEXT,
            negative_prompt_cu_seqlens=torch.arange(n + 1, dtype=torch.int32) * TEXT,
        ),
        branches=2,
        scheduler={"shift": 5.0},
        output="frames",
        bfloat16=False,
    ),
    Family(
        "Cosmos Predict 2",
        "Cosmos2TextToImagePipeline",
        (
            "CosmosTransformer3DModel",
            dict(
                in_channels=16,
                out_channels=16,
                num_attention_heads=2,
                attention_head_dim=16,
                num_layers=1,
                mlp_ratio=2,
                text_embed_dim=16,
                adaln_lora_dim=4,
                max_size=(4, 16, 16),
                rope_scale=(2.0, 1.0, 1.0),
                concat_padding_mask=False,
            ),
        ),
        lambda n: _picture(**_pair(n, TEXT, 16)),
        branches=2,
        scheduler={"use_karras_sigmas": True},
        parts=lambda: {"safety_checker": _Unchecked()},
    ),
    Family(
        "CogView4",
        "CogView4Pipeline",
        (
            "CogView4Transformer2DModel",
            dict(
                in_channels=4,
                out_channels=4,
                num_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                text_embed_dim=16,
                time_embed_dim=8,
                condition_dim=4,
            ),
        ),
        lambda n: _picture(**_pair(n, 16, 16)),
        branches=2,
        scheduler={
            "use_dynamic_shifting": True,
            "time_shift_type": "linear",
            "base_shift": 0.25,
            "max_shift": 0.75,
        },
    ),
    Family(
        "PRX",
        "PRXPipeline",
        (
            "PRXTransformer2DModel",
            dict(
                patch_size=1,
                in_channels=4,
                context_in_dim=8,
                hidden_size=16,
                mlp_ratio=2.0,
                num_heads=2,
                depth=1,
                axes_dim=[4, 4],
            ),
        ),
        lambda n: _picture(**_pair(n, TEXT, 8), use_resolution_binning=False),
        scheduler={"shift": 3.0},
        batches=False,  # with guidance diffusers 0.42 doubles one sample
        heeds=False,
    ),
    Family(
        "EasyAnimate",
        "EasyAnimatePipeline",
        (
            "EasyAnimateTransformer3DModel",
            dict(
                num_attention_heads=2,
                attention_head_dim=16,
                in_channels=4,
                out_channels=4,
                time_embed_dim=4,
                text_embed_dim=16,
                num_layers=1,
                sample_width=8,
                sample_height=8,
                patch_size=2,
            ),
        ),
        lambda n: _clip(5, **_pair(n, TEXT, 16), **_masks(n, "prompt_attention_mask")),
        parts=lambda: {"vae": _magvit()},
        output="frames",
    ),
    Family(
        "Sana Video",
        "SanaVideoPipeline",
        (
            "SanaVideoTransformer3DModel",
            dict(
                in_channels=16,
                out_channels=16,
                num_attention_heads=2,
                attention_head_dim=12,
                num_layers=1,
                num_cross_attention_heads=2,
                cross_attention_head_dim=12,
                cross_attention_dim=24,
                caption_channels=8,
                sample_size=8,
                rope_max_seq_len=32,
            ),
        ),
        lambda n: _picture(
            frames=5,
            **_pair(n, TEXT, 8),
            **_masks(n, "prompt_attention_mask"),
            use_resolution_binning=False,
            negative_prompt=None,
        ),
        scheduler={"shift": 8.0},
        output="frames",
    ),
    Family(
        "Ovis Image",
        "OvisImagePipeline",
        (
            "OvisImageTransformer2DModel",
            dict(
                in_channels=16,
                out_channels=16,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=16,
                axes_dims_rope=(4, 4, 8),
            ),
        ),
        lambda n: _picture(**_pair(n, TEXT, 16), negative_prompt=None),
        branches=2,
        scheduler={"use_dynamic_shifting": True},
    ),
    Family(
        "Bria 3.2",
        "BriaPipeline",
        (
            "BriaTransformer2DModel",
            dict(
                in_channels=16,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=16,
                axes_dims_rope=[0, 4, 4],
            ),
        ),
        lambda n: _picture(**_pair(n, TEXT, 16)),
        scheduler={"use_dynamic_shifting": True},
        parts=lambda: {"vae": _vae()},
    ),
]
