"""The whole audit against loops over what was written, and of a thousand COCO images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcls_core.audit import AuditSettings, audit
from bcls_core.audit.findings import image_id
from bcls_core.errors import ConfigError

PAIRS = [("train", "val"), ("train", "test"), ("val", "test")]


def cosine(a: Any, b: Any) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.float32(a @ b / (np.sqrt(a @ a) * np.sqrt(b @ b))))


@pytest.mark.parametrize("near", [0.5, 0.95, 1.0])
def test_caption_leaks_are_those_of_all_pairs(ground: Any, near: float) -> None:
    found = audit(ground.corpus, ground.labels, AuditSettings(near={"toy": near}, examples=100))
    assert [(leak.source, leak.into) for leak in found.leaks] == PAIRS
    for leak in found.leaks:
        ours, theirs = ground.of(leak.into), ground.of(leak.source)
        best = {c.id: min((-cosine(c.row, other.row), other.id) for other in theirs) for c in ours}
        close = {c.id for c in ours if -best[c.id][0] >= np.float32(near)}
        equal = {c.id for c in ours if c.text in {other.text for other in theirs}}
        assert leak.captions.total == len(ours)
        assert leak.captions.counts == {"equal": len(equal), "toy": len(close)}
        assert leak.captions.affected == len(close | equal)
        assert leak.captions.share == len(close | equal) / len(ours)
        into, source = found.rows[leak.into], found.rows[leak.source]
        shown = [m for m in leak.captions.worst if m.how == "toy"]
        assert {int(into.caption_ids[m.row]) for m in shown} == close - equal
        for match in shown:
            score, other = best[int(into.caption_ids[match.row])]
            assert (match.value, int(source.caption_ids[match.other])) == (-score, other)
        assert [m.value for m in shown] == sorted((m.value for m in shown), reverse=True)
        for match in (m for m in leak.captions.worst if m.how == "equal"):
            assert into.captions([match.row]) == source.captions([match.other])


def test_equal_captions_are_shown_once_and_the_longest_first(make_ground: Callable[..., Any]) -> None:
    def change(shards: Any, _: Any) -> None:
        for shard in (1, 3):
            shards[shard][0].text = "A very long caption."
        shards[3][1].text = shards[3][2].text = "a short one!"
        shards[0][3].text = "A short one"

    ground = make_ground(seed=5, change=change)
    found = audit(ground.corpus, None).leaks[1].captions
    texts = [audit(ground.corpus, None).rows["test"].captions([match.row])[0] for match in found.worst[:2]]
    assert texts == ["A very long caption.", "a short one!"]
    assert len({match.other for match in found.worst}) == len(found.worst)


def test_defaults_come_from_captions_of_one_image(ground: Any) -> None:
    found = audit(ground.corpus, ground.labels).measures["toy"]
    written = ground.of("train")
    pairs = [
        (i, j, cosine(a.row, b.row))
        for i, a in enumerate(written)
        for j, b in enumerate(written)
        if i != j and a.image == b.image
    ]
    own = [max(s for i, _, s in pairs if i == caption) for caption in {i for i, _, _ in pairs}]
    assert found.near == pytest.approx(np.percentile([s for _, _, s in pairs], 99), abs=1e-2)
    assert found.near > 0.8
    assert found.false_negative == pytest.approx(np.median(own), abs=1e-6)
    assert found.false_negative > 0.5
    assert sorted(found.false_negatives) == ["test", "train", "val"]


def test_default_thresholds_of_near_duplicates_have_a_floor(make_ground: Callable[..., Any]) -> None:
    def change(shards: Any, _: Any) -> None:
        for captions in shards:
            for place, caption in enumerate(captions):
                caption.row = np.eye(6, dtype=np.float16)[place % 6] + np.float16(0.125)

    ground = make_ground(change=change)
    found = audit(ground.corpus, ground.labels).measures["toy"]
    assert np.percentile(found.spread.same_image, 99) < 0.8
    assert np.percentile(found.spread.own_label, 50) < 0.5
    assert (found.near, found.false_negative) == (0.8, 0.5)


def test_a_corpus_of_single_captions_has_no_default_thresholds(make_ground: Callable[..., Any]) -> None:
    def change(shards: Any, _: Any) -> None:
        for captions in shards:
            first = {caption.image: caption for caption in reversed(captions)}
            captions[:] = sorted(first.values(), key=lambda c: c.image)

    ground = make_ground(change=change)
    found = audit(ground.corpus, ground.labels)
    measure = found.measures["toy"]
    assert (measure.near, measure.false_negative, measure.false_negatives) == (None, None, {})
    assert "toy" not in found.leaks[0].captions.counts
    set_by_hand = audit(ground.corpus, ground.labels, AuditSettings({"toy": 0.5}, {"toy": 0.5}))
    assert "toy" in set_by_hand.leaks[0].captions.counts
    assert set_by_hand.measures["toy"].false_negatives["train"].pairs > 0


def test_a_corpus_of_features_is_compared_by_cosine(make_ground: Callable[..., Any]) -> None:
    axes = np.eye(28)
    shared = {"test-3-1.png": 4, "train-0-4.png": 4}

    def vector(name: str) -> Any:
        _, shard, image = name.removesuffix(".png").split("-")
        return axes[shared.get(name, 7 * int(shard) + int(image))]

    ground = make_ground(features=vector)
    found = audit(ground.corpus, ground.labels)
    leak = found.leaks[1].images
    assert (leak.counts, leak.affected, leak.share) == ({"features": 1}, 1, 1 / 7)
    (match,) = leak.worst
    assert image_id(found.rows["test"], match.row) == "test-3-1.png"
    assert image_id(found.rows["train"], match.other) == "train-0-4.png"
    assert found.leaks[0].images.affected == found.leaks[2].images.affected == 0
    assert audit(ground.corpus, None, AuditSettings(cosine=0.0)).leaks[1].images.affected == 7


def test_what_it_found_is_json_and_the_same_again(ground: Any) -> None:
    first, second = (json.dumps(audit(ground.corpus, ground.labels).as_dict()) for _ in range(2))
    assert first == second


def test_settings_name_measures_that_are_there(ground: Any) -> None:
    with pytest.raises(ConfigError, match=r"false_negative: no measure 'x' in the label set. It holds toy"):
        audit(ground.corpus, ground.labels, AuditSettings(false_negative={"x": 0.5}))


@pytest.mark.needs("data")
def test_coco_mini_without_labels(shared_data: Path, tmp_path: Path) -> None:
    from bcls_core.config import KarpathyIngest
    from bcls_core.data.ingest import determinants_of, plan_ingest
    from bcls_core.data.inputs import input_digest
    from bcls_core.store import Store, fingerprint

    def run(worker: type, arguments: dict[str, Any], pieces: Any, _: str) -> list[Any]:
        work = worker(**arguments)
        return [work(piece) for piece in pieces]

    folder = shared_data / "data" / "coco_mini"
    settings = KarpathyIngest(source="karpathy", annotations=folder / "annotations.json", images=folder / "images")
    inputs = input_digest(settings, run)
    determined = determinants_of(settings, inputs)
    draft = Store(str(tmp_path)).draft("corpus", fingerprint(determined)[:16])
    plan = plan_ingest(settings, 512, draft, run)
    plan.finish(run(plan.worker, plan.arguments, plan.pieces, "ingesting"), inputs)
    corpus = draft.commit(fingerprint=determined, schema="corpus/1")
    found = audit(corpus, None)
    assert [leak.images.affected for leak in found.leaks] == [0, 0, 0]
    assert [leak.captions.counts["equal"] for leak in found.leaks] == [2, 9, 4]
