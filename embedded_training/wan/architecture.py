"""The parts of the embedded Wan, untrained: autoencoder, transformer, text encoder, tokenizer, sampler."""

from __future__ import annotations

from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from ddit_ext.embedded.vocabulary import CLIP_WORDS

from ..words import vocabulary_of, word_tokenizer

# "a spinning pizza and a growing penguin on a blue gradient" and the end mark are twelve tokens.
TEXT_LENGTH = 12
TEXT_WIDTH = 96
LATENT_CHANNELS = 12
FLOW_SHIFT = 3.0  # Wan 2.1's at 480p

VOCABULARY = vocabulary_of(CLIP_WORDS)


def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer(VOCABULARY, TEXT_LENGTH)


def text_encoder() -> UMT5EncoderModel:
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(VOCABULARY),
            d_model=TEXT_WIDTH,
            d_kv=32,
            num_heads=3,
            d_ff=2 * TEXT_WIDTH,
            num_layers=2,
            dropout_rate=0.0,
            pad_token_id=0,
            eos_token_id=len(VOCABULARY) - 1,
        )
    )


def autoencoder() -> AutoencoderKLWan:
    """4 x 4 pixels and four frames to one, as Wan 2.1's takes 8 x 8 and four: 96 x 96 x 9 -> 24 x 24 x 3."""
    return AutoencoderKLWan(
        base_dim=16,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
        scale_factor_spatial=4,
        scale_factor_temporal=4,
    )


def transformer(heads: int = 5, blocks: int = 8) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=heads,
        attention_head_dim=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_WIDTH,
        freq_dim=128,
        ffn_dim=heads * 32 * 4,
        num_layers=blocks,
        cross_attn_norm=True,
        rope_max_seq_len=64,
    )


def sampler() -> UniPCMultistepScheduler:
    """Wan 2.1's settings."""
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=FLOW_SHIFT,
        num_train_timesteps=1000,
    )
