"""The families that make pictures."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

from .family import TEXT, Family, masks, pair, picture, text


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


class _Unchecked:
    """In the place of Cosmos' guardrail, which is a package of its own."""

    def to(self, device: Any) -> None:
        pass

    def check_text_safety(self, prompt: str) -> bool:
        return True


IMAGES = [
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
        lambda n: picture(prompt_embeds=text(n, TEXT, 32), pooled_prompt_embeds=text(n, 32)),
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
        lambda n: picture(prompt_embeds=text(n, TEXT, 16)),
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
        lambda n: picture(**pair(n, TEXT, 16), **masks(n, "prompt_embeds_mask")),
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
        lambda n: picture(
            prompt_embeds=list(text(n, TEXT, 16)),
            negative_prompt_embeds=list(text(n, TEXT, 16, seed=2)),
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
        lambda n: picture(**pair(n, TEXT, 32), **pair(n, 32, name="pooled_prompt_embeds")),
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
        lambda n: picture(**pair(n, TEXT, 32), **masks(n, "prompt_attention_mask", torch.bool)),
        branches=2,
        scheduler={"use_beta_sigmas": True},
        variants={"img2img": "ChromaImg2ImgPipeline"},
        vae=lambda: _vae(),
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
        lambda n: picture(
            **pair(n, TEXT, 16),
            **masks(n, "prompt_embeds_mask"),
            **pair(n, TEXT, 16, name="prompt_embeds_2"),
            **masks(n, "prompt_embeds_mask_2"),
        ),
        branches=2,
        scheduler={"shift": 4.0},
        parts=lambda: {
            "guider": diffusers.AdaptiveProjectedMixGuidance(),
            "ocr_guider": diffusers.AdaptiveProjectedMixGuidance(),
        },
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
        lambda n: picture(**pair(n, TEXT, 8), **masks(n, "prompt_attention_mask")),
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
        lambda n: picture(
            **pair(n, TEXT, 8),
            **masks(n, "prompt_attention_mask"),
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
        lambda n: picture(**pair(n, TEXT, 16), **masks(n, "prompt_attention_mask")),
        scheduler={"shift": 1.73},
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
        lambda n: picture(**pair(n, TEXT, 16)),
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
        lambda n: picture(**pair(n, 16, 16)),
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
        lambda n: picture(**pair(n, TEXT, 8), use_resolution_binning=False),
        scheduler={"shift": 3.0},
        batches=False,  # with guidance diffusers 0.42 doubles one sample
        heeds=False,
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
        lambda n: picture(**pair(n, TEXT, 16), negative_prompt=None),
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
        lambda n: picture(**pair(n, TEXT, 16)),
        scheduler={"use_dynamic_shifting": True},
        parts=lambda: {"vae": _vae()},
    ),
]
