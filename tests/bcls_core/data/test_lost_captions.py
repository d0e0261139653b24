"""Which images lost captions between the annotations and the corpus, as far as anyone can tell afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcls_core.data.lost_captions import images_short_of_captions
from bcls_core.data.rows import CorpusRows
from bcls_core.store import Artifact

SPLITS = ("train", "val", "test")


@pytest.fixture
def corpus_of(new_source: Any, ingest: Callable[..., Artifact], tmp_path: Path) -> Callable[..., Artifact]:
    """`corpus_of({"a": ("test", {7: "text"})})` -> the corpus of these images: split, and texts by caption id."""

    def make(images: dict[str, tuple[str, Any]], missing: tuple[str, ...] = (), shard_images: int = 2) -> Artifact:
        source = new_source()
        for name, (split, captions) in images.items():
            pairs = captions.items() if isinstance(captions, dict) else captions
            source.add(name, split=split, sentences=[{"sentid": key, "raw": text} for key, text in pairs])
        names = [name for name in dict.fromkeys(images) if name not in missing]
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.npz"
        np.savez(path, image_id=np.array(names), features=np.ones((len(names), 2), np.float16))
        return ingest(source.settings(features=path), shard_images)

    return make


def doubtful(corpus: Artifact, split: str = "test") -> set[str]:
    return images_short_of_captions(CorpusRows(corpus, split))


def block(first: int, texts: str) -> dict[int, str]:
    """Captions with ids from `first` on; where a letter is `-`, an empty one."""
    return {first + place: "" if letter == "-" else f"text {letter}" for place, letter in enumerate(texts)}


def test_where_nothing_was_rejected_nothing_is_doubtful(corpus_of: Callable[..., Artifact]) -> None:
    corpus = corpus_of({"a": ("test", block(0, "xy")), "b": ("test", block(100, "x")), "c": ("val", block(50, "xyz"))})
    assert [doubtful(corpus, split) for split in SPLITS] == [set(), set(), set()]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ("-bcde", {"before", "it"}),  # the caption may have been the last of the image before
        ("ab-de", {"it"}),
        ("abcd-", {"it", "after"}),
        ("--cde", {"before", "it"}),
        ("-b-d-", {"before", "it", "after"}),
    ],
)
@pytest.mark.parametrize("gap", [0, 1000])
def test_the_owners_of_the_ids_next_to_a_lost_one_are_doubtful(
    corpus_of: Callable[..., Artifact], texts: str, expected: set[str], gap: int
) -> None:
    images = {
        name: ("test", block(place * (5 + gap), "abcde" if name != "it" else texts))
        for place, name in enumerate(["first", "before", "it", "after", "last"])
    }
    assert doubtful(corpus_of(images)) == expected


def test_an_image_at_either_end_has_one_neighbour(corpus_of: Callable[..., Artifact]) -> None:
    images = {"a": block(10, "-b"), "b": block(20, "ab"), "c": block(30, "ab"), "d": block(40, "-b")}
    corpus = corpus_of({name: ("test", captions) for name, captions in images.items()})
    assert doubtful(corpus) == {"a", "c", "d"}


def test_an_id_above_all_others_may_have_been_numbered_afterwards(corpus_of: Callable[..., Artifact]) -> None:
    images = {"a": block(10, "ab"), "b": block(20, "ab"), "c": block(30, "a-")}
    assert doubtful(corpus_of({name: ("test", captions) for name, captions in images.items()})) == {"a", "b", "c"}


def test_ids_need_not_follow_the_order_of_the_images(corpus_of: Callable[..., Artifact]) -> None:
    images = {"a": block(30, "ab"), "b": block(10, "a-c"), "c": block(20, "ab"), "d": block(0, "ab")}
    assert doubtful(corpus_of({name: ("test", captions) for name, captions in images.items()})) == {"b"}


def test_captions_rejected_with_their_image_leave_the_others_alone(corpus_of: Callable[..., Artifact]) -> None:
    images = {"a": ("test", block(0, "ab")), "gone": ("test", block(2, "abc")), "c": ("test", block(5, "ab"))}
    corpus = corpus_of(images, missing=("gone",))
    assert corpus.manifest.statistics["captions"]["rejected"] == 3
    assert doubtful(corpus) == set()


def test_an_image_left_without_captions_casts_doubt_on_its_neighbours_alone(
    corpus_of: Callable[..., Artifact],
) -> None:
    names = ["a", "b", "gone", "d", "e"]
    images = {name: ("test", block(3 * place, "---" if name == "gone" else "abc")) for place, name in enumerate(names)}
    assert doubtful(corpus_of(images)) == {"b", "d"}


@pytest.mark.parametrize("key", [-1, 2**63, 1.0, True, "seven", "", "1e3", "-3", "9" * 40, [3]])
def test_without_a_usable_id_every_image_is_doubtful(corpus_of: Callable[..., Artifact], key: Any) -> None:
    images = {"a": ("test", block(0, "ab")), "b": ("test", [(10, "x"), (key, "y")]), "c": ("test", block(20, "ab"))}
    corpus = corpus_of(images)
    assert corpus.manifest.statistics["captions"]["rejected"] == 1
    assert doubtful(corpus) == {"a", "b", "c"}


def test_a_sentence_that_is_no_object_makes_every_image_doubtful(
    new_source: Any, ingest: Callable[..., Artifact], tmp_path: Path
) -> None:
    source = new_source()
    source.add("a", split="test", sentences=[{"sentid": 0, "raw": "x"}, "not an object"])
    source.add("b", split="test", sentences=[{"sentid": 100, "raw": "x"}])
    np.savez(tmp_path / "f.npz", image_id=np.array(["a", "b"]), features=np.ones((2, 2), np.float16))
    assert doubtful(ingest(source.settings(features=tmp_path / "f.npz"))) == {"a", "b"}


def test_a_split_without_images_has_none_that_are_doubtful(corpus_of: Callable[..., Artifact]) -> None:
    corpus = corpus_of({"a": ("train", [(1, "x"), ("no id", "y"), (2, "")])})
    assert [doubtful(corpus, split) for split in SPLITS] == [{"a"}, set(), set()]


@pytest.mark.parametrize("seed", range(6))
def test_no_image_that_lost_a_caption_is_missed(corpus_of: Callable[..., Artifact], seed: int) -> None:
    """Random corpora over all splits: what is found is what a plain search for the nearest ids finds."""
    generator = np.random.default_rng(seed)
    images: dict[str, tuple[str, dict[int, str]]] = {}
    next_id = 0
    for place in generator.permutation(24):
        next_id += int(generator.choice([0, 1, 50]))
        texts = "".join("-" if generator.random() < 0.06 else "x" for _ in range(generator.integers(1, 6)))
        images[f"image-{place:02d}"] = (SPLITS[generator.integers(3)], block(next_id, texts))
        next_id += len(texts)
    images = {name: images[name] for name in sorted(images)}
    corpus = corpus_of(images, shard_images=5)

    lost = [key for _, captions in images.values() for key, text in captions.items() if not text]
    assert lost
    for split in SPLITS:
        kept = {
            key: name
            for name, (of, captions) in images.items()
            if of == split
            for key, text in captions.items()
            if text
        }
        expected = set()
        for key in lost:
            below, above = [k for k in kept if k < key], [k for k in kept if k > key]
            expected |= {kept[max(below)]} if below else set()
            expected |= {kept[min(above)]} if above else set()
        found = doubtful(corpus, split)
        assert found == expected
        short = {name for name, (of, captions) in images.items() if of == split and not all(captions.values())}
        assert short & set(kept.values()) <= found


def test_captions_of_one_image_alone(corpus_of: Callable[..., Artifact]) -> None:
    assert doubtful(corpus_of({"a": ("test", block(0, "a-"))})) == {"a"}


def test_an_id_given_twice_inside_an_image_makes_it_doubtful(corpus_of: Callable[..., Artifact]) -> None:
    images = {"a": ("test", [(0, "x")]), "b": ("test", [(7, "x"), (7, "y"), (8, "z")]), "c": ("test", [(20, "x")])}
    assert "b" in doubtful(corpus_of(images))


@pytest.mark.parametrize(
    ("short", "captions", "others"),
    [
        ("b", [(1, "x"), (100, "an id of another image"), (2, "y")], {"a": [(100, "x")], "c": [(50, "x")]}),
        ("b", [(3, "an id of another image"), (4, "x"), (5, "y")], {"a": [(1, "x"), (2, "y"), (3, "z")]}),
        ("b", [(0, "x"), ("100", "an id in a string")], {"a": [(99, "x")], "c": [(101, "x")]}),
        ("b", [(0, "x"), (None, "")], {"a": [(50, "x")], "c": [(99, "x")]}),
        ("b", [(1, "x"), (3, ""), (5, "y")], {"a": [(2, "interleaved"), (4, "y")]}),
    ],
    ids=["far duplicate", "next duplicate", "digits in a string", "no id", "interleaved"],
)
def test_an_image_far_from_the_id_of_its_lost_caption_is_doubtful(
    corpus_of: Callable[..., Artifact], short: str, captions: list[Any], others: dict[str, list[Any]]
) -> None:
    images = {name: ("test", pairs) for name, pairs in sorted({**others, short: captions}.items())}
    corpus = corpus_of(images)
    assert corpus.manifest.statistics["captions"]["rejected"] == 1
    assert short in doubtful(corpus)
