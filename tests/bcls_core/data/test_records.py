from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.data.records import RecordCollector, caption_problem
from bcls_core.data.rejects import Reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a red boat", None),
        ("  a red boat\n", None),
        ("ein Café 東京 🚤", None),
        ("…", None),
        ("", Reason.EMPTY_CAPTION),
        (" \t\n\u00a0\u3000", Reason.EMPTY_CAPTION),
        ("\x00\x07\x1b", Reason.NOT_TEXT),
        ("\u200b\ufeff", Reason.NOT_TEXT),
        ("\ue000", Reason.NOT_TEXT),
        ("a boat \ud800", Reason.NOT_TEXT),
        (None, Reason.NOT_TEXT),
        (7, Reason.NOT_TEXT),
        (["a", "boat"], Reason.NOT_TEXT),
    ],
)
def test_what_counts_as_a_caption(text: Any, reason: Reason | None) -> None:
    assert caption_problem(text) == reason


def collect(*images: tuple[str, list[tuple[Any, Any]]]) -> RecordCollector:
    collector = RecordCollector()
    for number, (image_id, captions) in enumerate(images):
        collector.add(image_id, "train", (image_id,), captions, f"images[{number}]")
    return collector


def reasons(collector: RecordCollector) -> list[tuple[str, str, str]]:
    return [(reject.source, reject.key, reject.reason.value) for reject in collector.rejects]


def test_texts_stay_as_they_are_and_captions_are_ordered_by_id() -> None:
    (record,) = collect(("a.jpg", [(9, " nine\n"), (2, "Two")])).records

    assert [(caption.caption_id, caption.caption) for caption in record.captions] == [(2, "Two"), (9, " nine\n")]


def test_the_first_of_two_images_with_one_id_is_kept() -> None:
    collector = collect(("a.jpg", [(1, "first")]), ("a.jpg", [(2, "second"), (3, "third")]))

    assert [record.captions[0].caption for record in collector.records] == ["first"]
    assert reasons(collector) == [
        ("captions", "2", "its image was rejected"),
        ("captions", "3", "its image was rejected"),
        ("images", "a.jpg", "duplicate image id"),
    ]


def test_captions_of_a_rejected_image_give_out_no_ids() -> None:
    collector = collect(("a.jpg", [(1, "a")]), ("a.jpg", [(2, "gone")]), ("b.jpg", [(2, "kept")]))

    assert collector.records[1].captions[0].caption == "kept"


def test_the_first_of_two_captions_with_one_id_is_kept() -> None:
    collector = collect(("a.jpg", [(1, "first"), (1, "again")]), ("b.jpg", [(1, "elsewhere"), (2, "b")]))

    assert reasons(collector) == [("captions", "1", "duplicate caption id")] * 2
    assert [len(record.captions) for record in collector.records] == [1, 1]


@pytest.mark.parametrize("caption_id", ["12", 1.0, True, -1, 2**63, [1], "\ud800"])
def test_ids_that_are_no_numbers_of_64_bits_are_rejected(caption_id: Any) -> None:
    collector = collect(("a.jpg", [(caption_id, "text"), (2**63 - 1, "the largest")]))

    assert [reject.reason for reject in collector.rejects] == [Reason.INVALID_CAPTION_ID]
    assert collector.records[0].captions[0].caption_id == 2**63 - 1


def test_an_image_without_a_usable_caption_is_rejected() -> None:
    collector = collect(("a.jpg", [(1, ""), (2, None)]), ("b.jpg", []))

    assert collector.records == []
    assert reasons(collector) == [
        ("captions", "1", "empty caption"),
        ("captions", "2", "caption is not text"),
        ("images", "a.jpg", "no usable caption"),
        ("images", "b.jpg", "no usable caption"),
    ]


@pytest.mark.parametrize("name", ["", ".", "/", "a\0.jpg", "a\n.jpg", "\ud800.jpg"])
def test_names_no_file_can_have_are_rejected(name: str) -> None:
    collector = collect((name, [(1, "text")]))

    assert [reject.reason for reject in collector.rejects] == [Reason.IMAGE_REJECTED, Reason.INVALID_FILE_NAME]
    assert collector.rejects[1].key == (name or "images[0]")


captions_strategy = st.lists(
    st.tuples(
        st.one_of(st.integers(-1, 6), st.sampled_from(["3", None, 2.5])),
        st.sampled_from(["a", "boat", "", " ", "\x01", None, 5]),
    ),
    max_size=5,
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c", ""]), captions_strategy), max_size=8))
def test_every_row_is_accepted_or_rejected_once(images: list[tuple[str, list[tuple[Any, Any]]]]) -> None:
    collector = collect(*images)

    rejected = Counter(reject.source for reject in collector.rejects)
    assert len(images) == len(collector.records) + rejected["images"] == collector.input_images
    captions = sum(len(record.captions) for record in collector.records)
    assert sum(len(own) for _, own in images) == captions + rejected["captions"] == collector.input_captions
    ids = [caption.caption_id for record in collector.records for caption in record.captions]
    assert len(set(ids)) == len(ids)
    assert all(record.captions for record in collector.records)
