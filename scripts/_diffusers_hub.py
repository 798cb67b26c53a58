"""Stand-ins for the tiny text encoders and tokenizers that diffusers' tests take from the hub: nothing is downloaded.

Each is a folder named as on the hub, which transformers finds from the working directory.
"""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
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
MISTRAL = ("hf-internal-testing/Mistral-Small-3.1-24B-Instruct-2503-only-processor",)
QWEN_WORDS = {
    "<|endoftext|>": 151643,
    "<|vision_start|>": 151652,
    "<|vision_end|>": 151653,
    "<|image_pad|>": 151655,
    "<|video_pad|>": 151656,
}
"""Tokens by the numbers that the configurations of text encoders have for them."""
MISTRAL_WORDS = ("<unk>", "<s>", "</s>", "<pad>", "[IMG]", "[IMG_BREAK]", "[IMG_END]")
CHAT = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"

CHAT_OF_PARTS = (
    "<s>{% for m in messages %}{% for part in m['content'] %}"
    "{{ part['text'] if part['type'] == 'text' else '[IMG]' }}{% endfor %}\n{% endfor %}"
)


def make_hub(root: Path) -> None:
    """Write all stand-ins below `root`."""
    torch.manual_seed(0)
    for name in T5:
        _t5(root / name)
    for name in CLIP:
        _clip(root / name)
    for name in QWEN:
        _qwen(root / name)
    for name in MISTRAL:
        _mistral(root / name)


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


def _letters(first: int = 0) -> dict[str, int]:
    """A letter a token."""
    return {letter: first + index for index, letter in enumerate(sorted(ByteLevel.alphabet()))}


def _qwen(folder: Path) -> None:
    words = list(QWEN_WORDS)[1:]
    tokenizer = Qwen2Tokenizer(vocab=_letters() | QWEN_WORDS, merges=[], additional_special_tokens=words)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    _processor(
        folder,
        processor_class="Qwen2VLProcessor",
        image_processor={"image_processor_type": "Qwen2VLImageProcessor"},
        video_processor={"video_processor_type": "Qwen2VLVideoProcessor"},
    )


def _mistral(folder: Path) -> None:
    words = {word: index for index, word in enumerate(MISTRAL_WORDS)}
    model = Tokenizer(BPE(vocab=words | _letters(len(words)), merges=[]))
    model.pre_tokenizer, model.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model,
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=list(words)[4:],
        model_max_length=512,
    )
    tokenizer.chat_template = CHAT_OF_PARTS
    tokenizer.save_pretrained(folder)
    _processor(
        folder,
        processor_class="PixtralProcessor",
        image_processor={"image_processor_type": "PixtralImageProcessor"},
    )


def _processor(folder: Path, **settings: object) -> None:
    """As `save_pretrained` writes it; making the processor itself would need torchvision here."""
    (folder / "processor_config.json").write_text(json.dumps(settings))
