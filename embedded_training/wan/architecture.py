"""The parts of the embedded Wan, untrained: transformer, text encoder, tokenizer, sampler."""

from __future__ import annotations

from diffusers import UniPCMultistepScheduler, WanTransformer3DModel
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from ddit_ext.embedded.vocabulary import CLIP_WORDS

from ..words import vocabulary_of, word_tokenizer

# "a spinning pizza and a growing penguin on a blue gradient" and the end mark are twelve tokens.
TEXT_LENGTH = 12
TEXT_WIDTH = 96
LATENT_CHANNELS = 24
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
