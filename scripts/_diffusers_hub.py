"""Stand-ins for the tiny text encoders and tokenizers that diffusers' tests take from the hub: nothing is downloaded.

Each is a folder named as on the hub, which transformers finds from the working directory.
"""

from __future__ import annotations

import string
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    Qwen2Tokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

LETTERS = string.ascii_letters + string.digits + string.punctuation
T5 = ("hf-internal-testing/tiny-random-t5",)
CLIP = ("hf-internal-testing/tiny-random-clip", "peft-internal-testing/tiny-clip-text-2")
QWEN = (
    "hf-internal-testing/tiny-random-Qwen2VLForConditionalGeneration",
    "hf-internal-testing/tiny-random-Qwen25VLForCondGen",
)
CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def make_hub(root: Path) -> None:
    """Write all stand-ins below `root`."""
    torch.manual_seed(0)
    for name in T5:
        _t5(root / name)
    for name in CLIP:
        _clip(root / name)
    for name in QWEN:
        _qwen(root / name)


def _t5(folder: Path) -> None:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces += [(letter, -4.0 - index / 50) for index, letter in enumerate(LETTERS)]
    T5Tokenizer(vocab=pieces, extra_ids=100, model_max_length=512).save_pretrained(folder)
    config = T5Config(
        vocab_size=1103,
        d_model=32,
        d_kv=8,
        d_ff=37,
        num_layers=5,
        num_heads=4,
        relative_attention_num_buckets=8,
        initializer_factor=0.002,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    T5EncoderModel(config).save_pretrained(folder)


def _clip(folder: Path) -> None:
    words = ["<|startoftext|>", "!pad", "<|endoftext|>", *LETTERS, *(letter + "</w>" for letter in LETTERS)]
    vocab = {word: index for index, word in enumerate(dict.fromkeys(words))}
    CLIPTokenizer(vocab=vocab, merges=[], unk_token="<|endoftext|>", model_max_length=77).save_pretrained(
        folder
    )
    config = CLIPTextConfig(
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
        vocab_size=1000,
        hidden_size=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=5,
        projection_dim=32,
    )
    CLIPTextModel(config).save_pretrained(folder)


def _qwen(folder: Path) -> None:
    """A letter a token."""
    vocab = {letter: index for index, letter in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], model_max_length=512)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
