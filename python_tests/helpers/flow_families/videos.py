"""The families that make clips."""

from __future__ import annotations

import diffusers
import torch

from .family import TEXT, Family, clip, mask, masks, pair, picture, text


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


VIDEOS = [
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
        lambda n: clip(
            prompt_embeds=text(n, TEXT, 16), pooled_prompt_embeds=text(n, 8), prompt_attention_mask=mask(n)
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
            clip(
                3,
                **pair(n, TEXT, 16),
                **masks(n, "prompt_embeds_mask"),
                **pair(n, TEXT, 16, name="prompt_embeds_2"),
                **masks(n, "prompt_embeds_mask_2"),
            )
            | {"height": 32, "width": 32}
        ),
        branches=2,
        scheduler={"shift": 7.0},
        parts=lambda: {"guider": diffusers.ClassifierFreeGuidance(guidance_scale=6.0), "vae": _hunyuan_vae()},
        output="frames",
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
        lambda n: clip(9, **pair(n, TEXT, 16), **masks(n, "prompt_attention_mask")),
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
        lambda n: clip(**pair(n, TEXT, 32)),
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
        lambda n: clip(7, **pair(n, TEXT, 32), **masks(n, "prompt_attention_mask", torch.bool)),
        scheduler={"invert_sigmas": True},
        output="frames",
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
        lambda n: clip(
            **pair(n, TEXT, 16, name="prompt_embeds_qwen"),
            **pair(n, 8, name="prompt_embeds_clip"),
            prompt_cu_seqlens=torch.arange(n + 1, dtype=torch.int32) * TEXT,
            negative_prompt_cu_seqlens=torch.arange(n + 1, dtype=torch.int32) * TEXT,
        ),
        branches=2,
        scheduler={"shift": 5.0},
        output="frames",
        bfloat16=False,
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
        lambda n: clip(5, **pair(n, TEXT, 16), **masks(n, "prompt_attention_mask")),
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
        lambda n: picture(
            frames=5,
            **pair(n, TEXT, 8),
            **masks(n, "prompt_attention_mask"),
            use_resolution_binning=False,
            negative_prompt=None,
        ),
        scheduler={"shift": 8.0},
        output="frames",
    ),
]
