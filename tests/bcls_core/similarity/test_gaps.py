from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from bcls_core.errors import ConfigError, ShapeError, StoreError
from bcls_core.similarity import GapQuantiles, resolve_gap
from bcls_core.similarity.gaps import sample_gaps

IDS = np.random.default_rng(0).choice(100_000, size=900, replace=False)
PLACE = {int(caption): place for place, caption in enumerate(IDS)}
IMAGE_OF = np.random.default_rng(1).permutation(np.arange(900) % 180)
LABELS = np.random.default_rng(2).beta(2, 5, size=(180, 900)).astype(np.float32)
LABELS[IMAGE_OF[None, :] == np.arange(180)[:, None]] = 1.0


def relevance(own: Sequence[np.ndarray], captions: np.ndarray) -> np.ndarray:
    """Labels by caption ids, straight from the table."""
    images = [IMAGE_OF[PLACE[int(ids[0])]] for ids in own]
    assert [len(ids) for ids in own] == [5] * len(own)
    return LABELS[np.ix_(images, [PLACE[int(caption)] for caption in captions])]


def test_quantiles_estimate_those_of_all_triples() -> None:
    found = sample_gaps(relevance, IDS, IMAGE_OF, pairs=200_000, seed=0)
    foreign = IMAGE_OF[None, :] != np.arange(180)[:, None]
    everything = []
    for row, keep in zip(LABELS, foreign, strict=True):
        values = row[keep]
        i, j = np.triu_indices(len(values), 1)
        everything.append(np.abs(values[i] - values[j])[::97])
    truth = np.percentile(np.concatenate(everything), np.arange(101))
    np.testing.assert_allclose(found.values[5:96], truth[5:96], atol=0.01)
    assert (np.diff(found.values) >= 0).all()
    assert found.values[100] < 0.99  # with own captions, labelled 1, it would be about 1


def test_the_sample_depends_on_the_seed_alone() -> None:
    order = np.random.default_rng(5).permutation(900)
    first = sample_gaps(relevance, IDS, IMAGE_OF, pairs=20_000, seed=4)
    again = sample_gaps(relevance, IDS[order], IMAGE_OF[order], pairs=20_000, seed=4)
    other = sample_gaps(relevance, IDS, IMAGE_OF, pairs=20_000, seed=5)
    assert first.values.tobytes() == again.values.tobytes()
    assert first.values.tobytes() != other.values.tobytes()


def test_gaps_are_numbers_or_percentiles() -> None:
    quantiles = GapQuantiles(np.linspace(0, 0.5, 101))
    assert quantiles.resolve(0.3) == 0.3
    assert quantiles.resolve(0) == 0.0
    assert quantiles.resolve("p60") == pytest.approx(0.3)
    assert quantiles.resolve("p0") == 0.0
    assert quantiles.resolve("p100") == 0.5
    assert resolve_gap("p2.5", quantiles.values) == pytest.approx(0.0125)


@pytest.mark.parametrize("gap", ["60", "p101", "p", "p-1", "q60", -0.1, float("nan"), float("inf")])
def test_other_gaps_are_refused(gap: float | str) -> None:
    with pytest.raises(ConfigError, match="gap: found"):
        GapQuantiles(np.linspace(0, 0.5, 101)).resolve(gap)


def test_quantiles_survive_storage() -> None:
    import pyarrow as pa

    one, two = GapQuantiles(np.linspace(0, 0.5, 101)), GapQuantiles(np.linspace(0, 0.7, 101))
    table = pa.concat_tables([two.to_table("b"), one.to_table("a")])
    assert GapQuantiles.from_table(table, "a").values.tobytes() == one.values.tobytes()
    assert table.column("quantile")[60].as_py() == 0.6
    with pytest.raises(StoreError, match="0 rows of 'c'"):
        GapQuantiles.from_table(table, "c")


def test_a_single_image_has_no_gaps() -> None:
    with pytest.raises(ShapeError, match="no image with two captions of other images"):
        sample_gaps(
            lambda own, captions: np.ones((len(own), len(captions)), np.float32), IDS[:4], np.zeros(4, int), 99, 0
        )
    with pytest.raises(ShapeError, match="found 0 captions"):
        sample_gaps(relevance, IDS[:0], IMAGE_OF[:0], 99, 0)


def test_golden() -> None:
    """Pins GAPS_VERSION 1: raise the version with any change here."""
    ids = np.arange(900) * 3

    def labels(own: Sequence[np.ndarray], captions: np.ndarray) -> np.ndarray:
        first = np.array([ids[0] for ids in own])
        return ((first[:, None] * 7919 + captions * 104_729) % 1009 / 1009).astype(np.float32)

    found = sample_gaps(labels, ids, np.arange(900) // 5, pairs=20_000, seed=4)
    np.testing.assert_allclose(
        found.values[[1, 25, 60, 99]],
        [0.010901883244514465, 0.15758176147937775, 0.3657086193561554, 0.8969276547431946],
        rtol=1e-12,
    )
