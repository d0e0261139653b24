"""The corpus-made tokenizer against a plain count of words."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from bcls_core.students.tokenizer import SPECIAL_TOKENS, build_tokenizer

WORDS = st.sampled_from(["Red", "red", "ball", "box", "on", "a", "dog's", "well-known", "cat,", "sleeps."])
CAPTIONS = st.lists(st.lists(WORDS, min_size=1, max_size=8).map(" ".join), min_size=1, max_size=12)


@given(CAPTIONS, st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_ids_go_from_the_commonest_word_to_the_rarest(captions: list[str], vocabulary: int) -> None:
    tokenizer = build_tokenizer(iter(captions), vocabulary=vocabulary, max_tokens=16)
    counts = Counter(word for caption in captions for word in re.findall(r"\w+|[^\w\s]", caption.lower()))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))[:vocabulary]
    expected = {word: index for index, word in enumerate([*SPECIAL_TOKENS, *ranked])}
    assert tokenizer.get_vocab() == expected


@given(CAPTIONS, st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_captions_does_not_matter(captions: list[str], random: object) -> None:
    shuffled = list(captions)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    files = [
        build_tokenizer(texts, vocabulary=9, max_tokens=16).backend_tokenizer.to_str() for texts in (captions, shuffled)
    ]
    assert files[0] == files[1]


def test_a_caption_becomes_words_between_cls_and_sep(captions: list[str]) -> None:
    tokenizer = build_tokenizer(captions, vocabulary=100, max_tokens=16)
    ids = tokenizer("The RED zebra, a box")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "the", "red", "[UNK]", ",", "a", "box", "[SEP]"]
    padded = tokenizer(["a", "a red box"], padding=True)
    assert padded["attention_mask"] == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert padded["input_ids"][0][3:] == [0, 0]


def test_it_loads_from_its_folder(captions: list[str], tmp_path: Path) -> None:
    tokenizer = build_tokenizer(captions, vocabulary=100, max_tokens=16)
    tokenizer.save_pretrained(tmp_path)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert loaded(captions)["input_ids"] == tokenizer(captions)["input_ids"]
    assert loaded.model_max_length == 16
