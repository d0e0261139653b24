"""Labels built upon those of an earlier corpus, against the same labels made from nothing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcls_core.config import CiderDMeasureSettings, CiderMeasureSettings, LabelSettings
from bcls_core.errors import StoreError
from bcls_core.similarity import neighbour_labels
from bcls_core.similarity.corpus_splits import CorpusSplits
from bcls_core.similarity.earlier_labels import EarlierLabels
from bcls_core.similarity.neighbour_labels import SearchPanel
from bcls_core.similarity.row_book import EMBEDDINGS, TFIDF
from bcls_core.store import Store
from tests.bcls_core.similarity.conftest import Caption, make_shards, write_corpus
from tests.bcls_core.similarity.test_labels import MINILM, make_labels

OLD, NEW = "1" * 16, "2" * 16


def grown(shards: list[list[Caption]]) -> list[list[Caption]]:
    """A shard more in train: three captions of one image."""
    more = [Caption(20_000 + i, "new.jpg", "train", f"a horse {word}") for i, word in enumerate("abc")]
    return [*shards[:2], more, *shards[2:]]


def edited(shards: list[list[Caption]]) -> list[list[Caption]]:
    """An image gone, a caption reworded, one moved to another image, a shard more; ids as they were."""
    first, second, more, val, test = grown(shards)
    gone = first[0].image
    first = [caption for caption in first if caption.image != gone]
    first[2] = replace(first[2], text="three cats sleep on a sofa")
    second[0] = replace(second[0], image=second[-1].image)
    return [first, sorted(second, key=lambda c: (c.image, c.id)), more, val, test[:-4]]


@pytest.mark.needs("minilm")
def test_what_is_built_upon_is_what_is_made_anew(tmp_path: Path) -> None:
    before = write_corpus(tmp_path, make_shards(seed=3))
    measures: dict[str, Any] = {"minilm": MINILM, "cider": CiderMeasureSettings(kind="cider")}
    make_labels(before, measures, version=OLD)
    after = write_corpus(tmp_path, edited(make_shards(seed=3)), "9" * 16)
    for number, panels in enumerate([None, [[0, 1, 2], [3], [4]]]):
        anew, built = (
            make_labels(after, measures, order=range(5), version=f"{number}{how}" * 8, panels=panels, earlier=earlier)
            for how, earlier in (("a", None), ("b", OLD))
        )
        assert built.content_digest == anew.content_digest


@pytest.mark.needs("minilm")
def test_lists_that_hold_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A split that did not change meets nobody anew, and says so."""
    before = write_corpus(tmp_path, make_shards(seed=3))
    make_labels(before, {"minilm": MINILM}, version=OLD)
    after = write_corpus(tmp_path, grown(make_shards(seed=3)), "9" * 16)
    label = LabelSettings(measures={"minilm": MINILM}, neighbours=6)
    drafted = make_draft(after, label)
    searched: list[int] = []
    update = neighbour_labels.update_neighbours

    def spy(*arguments: Any, search: Any, **options: Any) -> Any:
        return update(*arguments, search=lambda asked: searched.append(len(asked)) or search(asked), **options)

    monkeypatch.setattr(neighbour_labels, "update_neighbours", spy)
    panel = SearchPanel(after.root, after.artifact.version, drafted, "minilm", label, OLD)
    val = panel({"piece": "val", "shards": [3]})
    assert (val["kept"], val["repaired"], val["new"]) == (val["rows"], 0, 0)
    assert searched == []
    train = panel({"piece": "train", "shards": [0, 1, 2]})
    assert (train["kept"], train["repaired"], train["new"]) == (train["rows"] - 3, 0, 3)
    assert searched == [3]


def test_with_kept_frequencies_ngram_lists_are_built_upon_too(tmp_path: Path) -> None:
    """What is new has words nobody counted; weights, ids and so the rows of all other captions stay."""
    before = write_corpus(tmp_path, make_shards(seed=3))
    measures: dict[str, Any] = {"cider": CiderMeasureSettings(kind="cider"), "d": CiderDMeasureSettings(kind="cider-d")}
    old = make_labels(before, measures, version=OLD)
    after = write_corpus(tmp_path, edited(make_shards(seed=3)), "9" * 16)
    anew = make_labels(after, measures, order=range(5), version="a" * 16, frequencies_of=OLD)
    built = make_labels(after, measures, order=range(5), version="b" * 16, frequencies_of=OLD, earlier=OLD)
    assert built.content_digest == anew.content_digest
    counted = make_labels(after, measures, order=range(5), version="c" * 16, earlier=OLD)
    assert counted.content_digest != built.content_digest
    frequencies = {labels.version: labels.read("document_frequencies", 0) for labels in (old, built)}
    kept, now = frequencies[OLD], frequencies["b" * 16]
    assert now.slice(0, len(kept)).equals(kept)
    assert now.num_rows > len(kept)
    assert set(now.slice(len(kept)).column("df").to_pylist()) == {0}
    val = CorpusSplits(after.artifact).shards("val")[0]
    part = f"{TFIDF}/cider/part-{val:05d}.parquet"
    before_it = f"{TFIDF}/cider/part-{val - 1:05d}.parquet"
    assert Path(built.url, part).samefile(Path(old.url, before_it)), "a shard that did not change is not stored again"
    assert not Path(anew.url, part).samefile(Path(old.url, before_it))


def test_kept_frequencies_are_checked(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, make_shards(seed=3))
    measures: dict[str, Any] = {"cider": CiderMeasureSettings(kind="cider")}
    old = make_labels(corpus, measures, version=OLD)
    again = make_labels(corpus, measures, version=NEW, frequencies_of=OLD)
    files = [Path(labels.url, "document_frequencies", "part-00000.parquet") for labels in (old, again)]
    assert files[0].samefile(files[1])
    content = bytearray(files[0].read_bytes())
    content[len(content) // 3] ^= 1
    files[0].write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        make_labels(corpus, measures, version="a" * 16, frequencies_of=OLD)


def make_draft(corpus: Any, label: LabelSettings) -> str:
    """A draft in which everything stands that `SearchPanel` reads."""
    from bcls_core.similarity.labels import RepresentShard
    from bcls_core.similarity.neighbour_labels import GatherSplit

    Store(corpus.root).draft("labels", NEW)
    places = (corpus.root, corpus.artifact.version, NEW)
    represent = RepresentShard(*places, "minilm", MINILM)
    for shard in range(5):
        represent({"piece": f"{shard}", "shard": shard})
    for split in CorpusSplits(corpus.artifact).names:
        GatherSplit(*places, "minilm", label)({"piece": split, "split": split})
    return NEW


@pytest.mark.needs("minilm")
def test_earlier_labels_say_what_they_hold(corpus: Any) -> None:
    make_labels(corpus, {"minilm": MINILM}, version=OLD)
    earlier = EarlierLabels(Store(corpus.root), OLD, "minilm", EMBEDDINGS)
    assert earlier.has("val")
    assert not earlier.has("nowhere")
    chosen = corpus.of_split("val")
    rows, lists = earlier.rows("val"), earlier.lists("val", 6)
    np.testing.assert_array_equal(rows.ids, [caption.id for caption in chosen])
    images = np.array([caption.image for caption in chosen])
    np.testing.assert_array_equal(rows.images[:, None] == rows.images, images[:, None] == images)
    shard = CorpusSplits(corpus.artifact).shards("val")[0]
    table = Store(corpus.root).resolve("labels", OLD).read("neighbours/minilm", shard)
    for row in table.to_pylist():
        (place,) = lists.places(np.array([row["id"]]))
        part = slice(lists.starts[place], lists.starts[place + 1])
        assert lists.neighbours[part].tolist() == row["ids"]
        assert lists.scores[part].tolist() == row["scores"]


@pytest.mark.needs("minilm")
@pytest.mark.parametrize("harmed", ["neighbours/minilm", "caption_embeddings/minilm", "captions"])
def test_damage_is_not_inherited(tmp_path: Path, harmed: str, caplog: pytest.LogCaptureFixture) -> None:
    """Not even a bit that no reader notices: a file of another checksum is not built upon, and that is said."""
    before = write_corpus(tmp_path, make_shards(seed=3))
    old = make_labels(before, {"minilm": MINILM}, version=OLD)
    after = write_corpus(tmp_path, grown(make_shards(seed=3)), "9" * 16)
    anew = make_labels(after, {"minilm": MINILM}, order=range(5), version="a" * 16)
    file = Path((old if "/" in harmed else before.artifact).url) / harmed / "part-00002.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)
    built = make_labels(after, {"minilm": MINILM}, order=range(5), version="b" * 16, earlier=OLD)
    assert built.content_digest == anew.content_digest
    assert f"labels {OLD} are not built upon" in caplog.text
    assert "damaged" in caplog.text


@pytest.mark.needs("minilm")
def test_the_corpus_before_may_have_been_written_again_in_other_shards(tmp_path: Path) -> None:
    first, second, val, test = make_shards(seed=3)
    make_labels(write_corpus(tmp_path, [first, second, val, test]), {"minilm": MINILM}, version=OLD)
    shutil.rmtree(tmp_path / "corpus" / ("0" * 16))
    draft_in_other_shards(tmp_path, [val, [*first, *second], test])
    after = write_corpus(tmp_path, grown([first, second, val, test]), "9" * 16)
    label = LabelSettings(measures={"minilm": MINILM}, neighbours=6)
    panel = SearchPanel(after.root, after.artifact.version, make_draft(after, label), "minilm", label, OLD)
    train = panel({"piece": "train", "shards": [0, 1, 2]})
    assert (train["upon"], train["new"]) == (OLD, 3)
    assert train["kept"] == train["rows"] - 3


def draft_in_other_shards(root: Path, shards: list[list[Caption]]) -> None:
    elsewhere = write_corpus(root / "elsewhere", shards)
    shutil.copytree(Path(elsewhere.artifact.url), root / "corpus" / ("0" * 16))
