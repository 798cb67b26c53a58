"""Tiny random Wan pipelines, built in code without any hub.

16 latent channels (48 for TI2V), one block of width 24; the VAE takes 8x8 pixels to a latent pixel and 4 frames to
one, so a token is 16x16 pixels. `size(rows, columns)` gives the height and width of a video with that many tokens.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanAnimatePipeline,
    WanAnimateTransformer3DModel,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
    WanVideoToVideoPipeline,
)
from PIL import Image
from threads import one_thread
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

WIDTH, TEXT, TEXT_WIDTH, IMAGE_WIDTH = 24, 5, 32, 16
PIXELS = 16
WORDS = ("a", "pizza", "spinning", "on", "red", "checks", "cat")

KINDS = ("text", "two", "ti2v", "i2v", "i2v_21", "ti2v_image", "v2v", "vace", "animate")
"""text: 2.1. two: 2.2 A14B. ti2v: 2.2 5B. i2v: 2.2 A14B's, two transformers. i2v_21: with image embeddings."""
FAMILY = dict.fromkeys(KINDS, "Wan 2.1")
FAMILY |= {"two": "Wan 2.2 A14B", "i2v": "Wan 2.2 A14B", "animate": "Wan 2.2 Animate"}
FAMILY |= {"ti2v": "Wan 2.2 TI2V 5B", "ti2v_image": "Wan 2.2 TI2V 5B"}
"""The rows of each kind in the table of docs/families.md."""

_CLASSES = {
    "text": WanPipeline,
    "two": WanPipeline,
    "ti2v": WanPipeline,
    "i2v": WanImageToVideoPipeline,
    "i2v_21": WanImageToVideoPipeline,
    "ti2v_image": WanImageToVideoPipeline,
    "v2v": WanVideoToVideoPipeline,
    "vace": WanVACEPipeline,
    "animate": WanAnimatePipeline,
}
MODEL = dict(
    patch_size=(1, 2, 2),
    num_attention_heads=2,
    attention_head_dim=WIDTH // 2,
    in_channels=16,
    out_channels=16,
    text_dim=TEXT_WIDTH,
    freq_dim=32,
    ffn_dim=32,
    num_layers=1,
    cross_attn_norm=True,
    rope_max_seq_len=64,  # cells along a side
)


_IMAGE = dict(in_channels=36, image_dim=IMAGE_WIDTH, added_kv_proj_dim=WIDTH)
_VACE = dict(vace_layers=[0], vace_in_channels=96)
_ANIMATE = _IMAGE | dict(
    motion_encoder_channel_sizes={"4": 8, "8": 8, "16": 8},
    motion_encoder_size=PIXELS,
    motion_style_dim=8,
    motion_dim=4,
    motion_encoder_dim=8,
    face_encoder_hidden_dim=8,
    face_encoder_num_heads=2,
    inject_face_latents_blocks=1,
)
_MODELS = {
    "two": (WanTransformer3DModel, {}),
    "ti2v": (WanTransformer3DModel, dict(in_channels=48, out_channels=48)),
    "ti2v_image": (WanTransformer3DModel, dict(in_channels=48, out_channels=48)),
    "i2v": (WanTransformer3DModel, dict(in_channels=36)),
    "i2v_21": (WanTransformer3DModel, _IMAGE),
    "vace": (WanVACETransformer3DModel, _VACE),
    "animate": (WanAnimateTransformer3DModel, _ANIMATE),
}


def make_transformer(kind: str = "text", seed: int = 0, **config: Any) -> torch.nn.Module:
    """The transformer of one of KINDS with random weights, whose output depends on every input."""
    cls, settings = _MODELS.get(kind, (WanTransformer3DModel, {}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = cls(**MODEL | settings | config).eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model


@functools.cache
def make_vae(channels: int = 16) -> AutoencoderKLWan:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return AutoencoderKLWan(
            base_dim=3,
            z_dim=channels,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            latents_mean=[0.0] * channels,
            latents_std=[1.0] * channels,
        ).eval()


@functools.cache
def make_text() -> dict[str, Any]:
    """A tokenizer of `WORDS` and a random UMT5 encoder."""
    vocabulary = {word: index for index, word in enumerate(("<pad>", "</s>", "<unk>", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    config = UMT5Config(
        vocab_size=len(vocabulary), d_model=TEXT_WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        encoder = UMT5EncoderModel(config).eval()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    return dict(tokenizer=wrapped, text_encoder=encoder)


@functools.cache
def make_image_encoder() -> dict[str, Any]:
    config = CLIPVisionConfig(
        hidden_size=IMAGE_WIDTH,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    size = {"height": 16, "width": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        encoder = CLIPVisionModel(config).eval()
    return dict(image_processor=CLIPImageProcessor(size=size, crop_size=size), image_encoder=encoder)


def make_scheduler(name: str = "unipc") -> Any:
    if name == "euler":
        return FlowMatchEulerDiscreteScheduler(shift=3.0)
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def make_pipeline(
    kind: str = "text", dtype: torch.dtype = torch.float32, scheduler: str = "unipc", **config: Any
) -> Any:
    """A pipeline of one of KINDS; config goes to the transformers. Prompt embeddings are to be passed."""
    parts: dict[str, Any] = dict(
        tokenizer=None,
        text_encoder=None,
        vae=make_vae(48 if kind.startswith("ti2v") else 16),
        scheduler=make_scheduler(scheduler),
        transformer=make_transformer(kind, **config),
    )
    if kind in ("two", "i2v"):
        parts |= dict(transformer_2=make_transformer(kind, seed=5, **config), boundary_ratio=0.8)
    if kind in ("i2v_21", "animate"):
        parts |= make_image_encoder()
    if kind.startswith("ti2v"):
        parts["expand_timesteps"] = True
    pipe = _CLASSES[kind](**parts)
    if dtype != torch.float32:
        pipe.transformer.to(dtype)  # the VAE stays in float32, as Wan's model cards have it
    pipe.set_progress_bar_config(disable=True)
    return pipe


def size(rows: int, columns: int) -> dict[str, int]:
    return {"height": rows * PIXELS, "width": columns * PIXELS}


def make_call(
    kind: str = "text",
    rows: int = 3,
    columns: int = 5,
    frames: int = 2,
    *,
    batch: int = 1,
    steps: int = 3,
    guidance: float = 3.0,
    seed: int = 0,
) -> dict[str, Any]:
    """The arguments of a call to `make_pipeline(kind)`; frames are latent frames, the first of one frame."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    video_frames = 4 * (frames - 1) + 1
    # Attention over image embeddings counts on 512 text tokens.
    text = 512 if kind in ("i2v_21", "animate") else TEXT
    call: dict[str, Any] = dict(
        prompt_embeds=noise(batch, text, TEXT_WIDTH),
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
        **size(rows, columns),
    )
    if guidance > 1:
        call["negative_prompt_embeds"] = noise(batch, text, TEXT_WIDTH)
    picture = Image.new("RGB", (columns * PIXELS, rows * PIXELS), (200, 40, 90))
    video = [picture] * video_frames
    if kind == "v2v":
        call |= dict(video=video, strength=0.8)
    elif kind == "animate":
        face = [Image.new("RGB", (PIXELS, PIXELS), (20, 30, 200))] * video_frames
        call |= dict(image=picture, pose_video=video, face_video=face, segment_frame_length=video_frames)
    else:
        call["num_frames"] = video_frames
    if kind in ("i2v", "i2v_21", "ti2v_image"):
        call["image"] = torch.rand(1, 3, rows * PIXELS, columns * PIXELS, generator=generator)
    if kind == "vace":
        call |= dict(video=video, mask=[Image.new("L", picture.size, 255)] * video_frames)
    return call


def run(pipe: Any, call: dict[str, Any]) -> torch.Tensor:
    """What a call ends with (latents [B, C, F, H, W]); calls with the same arguments are the same."""
    call = dict(call, generator=torch.Generator().manual_seed(call["generator"].initial_seed()))
    with one_thread():
        return pipe(**call).frames
