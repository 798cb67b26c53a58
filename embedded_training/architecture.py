"""The parts of the embedded FLUX, untrained: transformer, text encoders, tokenizer, sampler."""

from __future__ import annotations

from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from ddit_ext.embedded.vocabulary import WORDS

from .words import vocabulary_of, word_tokenizer

TEXT_LENGTH = 12  # "a pizza and a penguin on a blue gradient" and the end mark are ten tokens
TEXT_WIDTH, POOLED_WIDTH = 96, 64
LATENT_CHANNELS, PATCH = 4, 2

VOCABULARY = vocabulary_of(WORDS)
END = len(VOCABULARY) - 1


def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer(VOCABULARY, TEXT_LENGTH)


def text_encoder() -> CLIPTextModel:
    """Its pooled output goes into FLUX's modulation, as CLIP's does."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=POOLED_WIDTH,
            intermediate_size=2 * POOLED_WIDTH,
            projection_dim=POOLED_WIDTH,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            pad_token_id=0,
            bos_token_id=0,
            eos_token_id=END,
        )
    )


def text_encoder_2() -> T5EncoderModel:
    """Its sequence goes into FLUX's blocks, as T5's does."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(VOCABULARY),
            d_model=TEXT_WIDTH,
            d_kv=32,
            num_heads=3,
            d_ff=2 * TEXT_WIDTH,
            num_layers=2,
            dropout_rate=0.0,
            pad_token_id=0,
            eos_token_id=END,
        )
    )


def transformer(heads: int = 6, double_blocks: int = 2, single_blocks: int = 4) -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=LATENT_CHANNELS * PATCH**2,
        num_layers=double_blocks,
        num_single_layers=single_blocks,
        attention_head_dim=32,
        num_attention_heads=heads,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=POOLED_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 14, 14),
    )


def sampler() -> FlowMatchEulerDiscreteScheduler:
    """FLUX.1-dev's settings."""
    return FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )
