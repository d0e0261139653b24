"""A word-level tokenizer made from a corpus's own captions, for text towers that start without weights."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
"""Their ids are 0 to 3."""


def build_tokenizer(captions: Iterable[str], *, vocabulary: int, max_tokens: int) -> PreTrainedTokenizerFast:
    """Lower-cases, splits at spaces and punctuation, and knows the commonest words; others become [UNK].

    Ids go from the commonest word to the rarest, equal counts in alphabetical order: the same captions in any order
    give the same tokenizer.

    Args:
        captions: training captions; an iterator will do, it is read once.
        vocabulary: most words that are kept, the special tokens not counted.
        max_tokens: longest sequence a model gets, [CLS] and [SEP] included.
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))  # noqa: S106 - a token of text, not a secret
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocabulary + len(SPECIAL_TOKENS), special_tokens=list(SPECIAL_TOKENS), show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, SPECIAL_TOKENS.index(token)) for token in ("[CLS]", "[SEP]")]
    )
    pad, unknown, first, last = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_tokens,
        pad_token=pad,
        unk_token=unknown,
        cls_token=first,
        sep_token=last,
        model_input_names=["input_ids", "attention_mask"],
    )
