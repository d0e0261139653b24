from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bcls_core.teachers.batches import Batch, batches


def tokenise(texts: Sequence[str], *, left: bool = False) -> dict[str, object]:
    """A token per character, its code point; padded to the longest."""
    width = max(map(len, texts))
    ids, mask = torch.zeros(len(texts), width, dtype=torch.int64), torch.zeros(len(texts), width, dtype=torch.int64)
    for row, text in enumerate(texts):
        place = slice(width - len(text), None) if left else slice(0, len(text))
        ids[row, place] = torch.tensor([ord(letter) for letter in text], dtype=torch.int64)
        mask[row, place] = 1
    return {"input_ids": ids, "attention_mask": mask, "modality": "text"}


def read(batch: Batch) -> list[str]:
    return ["".join(chr(code) for code in row if code) for row in batch.features["input_ids"].tolist()]


@given(
    st.lists(st.text(st.characters(min_codepoint=65, max_codepoint=90), max_size=12), max_size=60),
    st.integers(1, 60),
    st.booleans(),
)
def test_every_text_is_in_one_batch_without_padding(texts: list[str], tokens: int, left: bool) -> None:
    found = list(batches(lambda chunk: tokenise(chunk, left=left), texts, tokens))
    assert sorted(place for batch in found for place in batch.places.tolist()) == list(range(len(texts)))
    for batch in found:
        assert read(batch) == [texts[place] for place in batch.places]
        count, width = batch.features["input_ids"].shape
        assert count * width <= tokens or count == 1
        assert bool(batch.features["attention_mask"].all()) or width <= 1
        assert batch.features["modality"] == "text"
    sizes = [(batch.features["input_ids"].shape[1], len(batch.places)) for batch in found]
    for width, size in {(width, max(1, tokens // width)) for width, _ in sizes if width}:
        assert sum(one < size for other, one in sizes if other == width) <= 1  # one rest for each length


def test_long_lists_are_gathered_over_chunks() -> None:
    texts = ["x" * (1 + number % 7) for number in range(4000)]
    found = list(batches(tokenise, texts, 350))
    assert len(found) == sum(-(-texts.count("x" * width) // (350 // width)) for width in range(1, 8))


@pytest.mark.parametrize("name", ["offsets", "holes", "none"])
def test_what_cannot_be_cut_stays_as_it_was_padded(name: str) -> None:
    def strange(texts: Sequence[str]) -> dict[str, object]:
        features = tokenise(texts)
        if name == "offsets":
            features["offsets"] = torch.arange(len(texts))
        elif name == "holes":
            features["attention_mask"][:, 1] = 0
        else:
            del features["attention_mask"]
        return features

    texts = ["x" * number for number in range(3, 103)]
    found = list(batches(strange, texts, 50))
    assert [len(batch.places) for batch in found] == [32, 32, 32, 4]
    assert np.concatenate([batch.places for batch in found]).tolist() == list(range(100))
    assert [read(batch) for batch in found] == [[texts[place] for place in batch.places] for batch in found]
