"""A small sentence encoder, built here and saved as real ones are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

WORDS = [
    "a",
    "the",
    "two",
    "man",
    "woman",
    "dog",
    "cat",
    "rides",
    "runs",
    "sits",
    "on",
    "in",
    "with",
    "red",
    "white",
    "horse",
    "bicycle",
    "street",
    "beach",
    "people",
    "at",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WIDTH, MOST_TOKENS = 32, 24


def build(folder: Path, *, padding_side: str = "right") -> Path:
    torch.manual_seed(5)
    vocabulary = {word: place for place, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[1]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    bert = folder / "bert"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=MOST_TOKENS, padding_side=padding_side, **names
    ).save_pretrained(bert)
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=MOST_TOKENS, **sizes)
    BertModel(config).save_pretrained(bert)
    whole = folder / "encoder"
    SentenceTransformer(modules=[Transformer(str(bert)), Pooling(WIDTH)], device="cpu").save(str(whole))
    return whole


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sentence encoder of 32 numbers, which cuts captions at 24 tokens."""
    return build(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, padding on the left."""
    return build(tmp_path_factory.mktemp("tiny-left"), padding_side="left")
