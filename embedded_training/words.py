"""A tokenizer of whole words, for models whose prompts follow a grammar of a few dozen of them."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

END_MARK = "</s>"


def vocabulary_of(words: Sequence[str]) -> tuple[str, ...]:
    """The words between the marks that text encoders expect.

    The end mark comes last: CLIP's pooling, in both of its conventions, then finds it.
    """
    return ("<pad>", "<unk>", *words, END_MARK)


def word_tokenizer(vocabulary: Sequence[str], length: int) -> PreTrainedTokenizerFast:
    """One token a word, then the end mark; prompts are cut at ``length`` tokens."""
    end = vocabulary.index(END_MARK)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single=f"$A {END_MARK}", special_tokens=[(END_MARK, end)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token=END_MARK,
        model_max_length=length,
    )
