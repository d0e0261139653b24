"""Equal captions of two lists, and the leak of a real dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bcls_core.audit import repeated
from bcls_core.audit.repeated_captions import caption_digests, split_digests


def test_the_first_equal_caption_is_named() -> None:
    others = ["Two dogs.", "a man", "A MAN!", "¿?"]
    assert repeated(["a man", "two  dogs", "?", "¿?", "men"], others).tolist() == [1, 0, -1, 3, -1]
    assert repeated([], others).tolist() == []
    assert repeated(["a"], []).tolist() == [-1]


def test_a_split_is_digested_in_row_order(ground: Any) -> None:
    rows = ground.rows("train")
    texts = rows.captions(range(rows.caption_count))
    assert split_digests(rows).tolist() == caption_digests(texts).tolist()


@pytest.mark.needs("data")
def test_captions_of_flickr30k_that_stand_in_train(shared_data: Path) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(shared_data / "data" / "flickr30k_captions.parquet", columns=["split", "caption"])
    by_split: dict[str, list[str]] = {}
    for split, caption in zip(table["split"].to_pylist(), table["caption"].to_pylist(), strict=True):
        by_split.setdefault(split, []).append(caption)
    plain = {"".join(c for c in text.lower() if c.isalnum() or c == " ").strip() for text in by_split["train"]}
    found = repeated(by_split["test"], by_split["train"]) >= 0
    simple = ["".join(c for c in text.lower() if c.isalnum() or c == " ").strip() in plain for text in by_split["test"]]
    assert abs(int(found.sum()) - sum(simple)) <= 5, "a cruder normal form finds nearly the same"
