"""The benchmark of all pairs: peers are read rightly, differences are counted, wrong neighbours are not let through."""

from __future__ import annotations

import numpy as np
import pytest

from bcls_core.similarity import top_k
from bcls_core.similarity.cosine import StoredRows, cosine_matrix

pytest.importorskip("faiss", reason="faiss is missing: pip install 'bcls[ann]'")

from tests.benchmarks import all_pairs, all_pairs_peers

K = 7


@pytest.fixture(scope="module")
def rows() -> StoredRows:
    """The first four are equal, nothing else is."""
    drawn = np.random.default_rng(0).standard_normal((60, 16)).astype(np.float16)
    drawn[1:4] = drawn[0]
    return drawn


def test_without_self() -> None:
    wide = np.array([[0, 1, 2], [2, 0, 1], [0, 1, 3]])  # equal rows have pushed row 2 out of its own list
    assert all_pairs_peers.without_self(wide, 2).tolist() == [[1, 2], [2, 0], [0, 1]]


@pytest.mark.parametrize("name", ["faiss", "semantic_search"])
@pytest.mark.parametrize("place", [0, -1])
def test_a_peer_finds_what_we_find(rows: StoredRows, name: str, place: int) -> None:
    kind = all_pairs_peers.PEERS[name]
    peer = kind(rows)
    found = peer.ids(peer.search(K, kind.swept[place]), K)
    compared = all_pairs_peers.compare(rows, *top_k(rows, K), found)
    assert peer.input_bytes == 60 * 16 * 4
    assert compared.largest <= compared.allowed < 1e-5
    assert compared.ids == compared.ties


def test_a_tie_is_counted_as_one(rows: StoredRows) -> None:
    scores, ids = top_k(rows, 2)
    theirs = ids.copy()
    assert ids[0].tolist() == [1, 2]
    theirs[0] = [3, 1]
    compared = all_pairs_peers.compare(rows, scores, ids, theirs)
    assert (compared.rows, compared.ids, compared.ties, compared.largest) == (1, 1, 1, 0.0)


def test_another_order_is_no_difference(rows: StoredRows) -> None:
    scores, ids = top_k(rows, K)
    compared = all_pairs_peers.compare(rows, scores, ids, ids[:, ::-1].copy())
    assert (compared.rows, compared.ids, compared.largest) == (0, 0, 0.0)


def test_wrong_neighbours_are_refused(rows: StoredRows) -> None:
    scores, ids = top_k(rows, K)
    worst, itself, twice, better = ids.copy(), ids.copy(), ids.copy(), ids.copy()
    worst[9, -1] = np.argmin(cosine_matrix(rows[9:10], rows)[0])
    itself[9, 0] = 9
    twice[9, 0] = twice[9, 1]
    missed = top_k(rows, K + 1)  # as if ours had missed the best
    better[9] = missed[1][9, :K]
    for theirs in (worst, itself, twice):
        with pytest.raises(AssertionError):
            all_pairs_peers.compare(rows, scores, ids, theirs)
    ours = scores.copy(), ids.copy()
    ours[0][9], ours[1][9] = missed[0][9, 1:], missed[1][9, 1:]
    with pytest.raises(AssertionError):
        all_pairs_peers.compare(rows, *ours, better)
    forged = scores.copy()
    forged[9, 0] = np.nextafter(forged[9, 0], np.float32(2))
    with pytest.raises(AssertionError):
        all_pairs_peers.compare(rows, forged, ids, ids)


def test_samples_are_nested_and_ordered(rows: StoredRows) -> None:
    numbered = np.arange(1000)[:, None]
    few, many = all_pairs.drawn(numbered, 10), all_pairs.drawn(numbered, 100)
    assert np.isin(few, many).all()
    assert (np.diff(many[:, 0]) > 0).all()


def test_rates_follow_from_medians() -> None:
    seconds = {"ours": [1.0, 9.0, 2.0], "faiss": [4.0], "semantic_search": [8.0], "torch.mm": [0.5]}
    found = all_pairs.rates((1000, 10), seconds)
    assert found["seconds"] == {"ours": 2.0, "faiss": 4.0, "semantic_search": 8.0}
    assert found["least and most seconds"]["ours"] == [1.0, 9.0]
    assert found["times faster"] == {"faiss": 2.0, "semantic_search": 4.0}
    assert found["GFLOP/s"]["torch.mm"] == round(2 * 4096**3 / 0.5 / 1e9, 1)
    big = all_pairs.rates((100_000, 100), seconds)["GFLOP/s"]
    assert big["ours"] == pytest.approx(2 * 100 * (100_000 * 99_999 / 2) / 2 / 1e9, rel=1e-3)
    assert big["faiss"] == pytest.approx(2 * 100 * 100_000**2 / 4 / 1e9, rel=1e-3)
