from __future__ import annotations

import os
import signal
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.losses import hinge
from bcls_core.losses.discordance import _in_blocks, _weights, row_discordance
from bcls_core.losses.hinge import hinge_discordance

GRID = [0.0, 0.1, 0.2, 0.3, 0.5, 0.6, 0.8, 0.9, 1.0]  # decimal differences round to either side of decimal gaps
FORMS = {"comparing": 10**9, "sweeping": 1}  # columns from which rows are swept


def definition(scores, labels, gap, window, margin):
    """Sums, pairs and gradient of each row: nested loops over the formula with numpy scalars of the arrays' dtypes."""
    rows, columns = scores.shape
    sums, counts, slopes = np.zeros(rows), np.zeros(rows), np.zeros((rows, columns))
    gap, margin = labels.dtype.type(gap), scores.dtype.type(margin)
    for i in range(rows):
        distinct = sorted(set(labels[i].tolist()))
        position = [distinct.index(value) for value in labels[i].tolist()]
        for j, k in product(range(columns), repeat=2):
            if labels[i, j] - labels[i, k] > gap and position[j] - position[k] >= window:
                violation = (scores[i, k] - scores[i, j]) + margin
                sums[i] += max(float(violation), 0.0)
                counts[i] += 1
                slopes[i, k] += violation > 0
                slopes[i, j] -= violation > 0
    return sums, counts, slopes


@st.composite
def rows_of_candidates(draw):
    rows, columns = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3, 7, 12, 33, 70]))
    seed = draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    dtypes = [np.float64, np.float32]
    if draw(st.booleans()):
        scores = generator.integers(-10, 11, (rows, columns)) / 10
    else:
        scores = generator.standard_normal((rows, columns))
    labels = generator.choice(GRID if draw(st.booleans()) else GRID[:2], (rows, columns))
    return scores.astype(draw(st.sampled_from(dtypes))), labels.astype(draw(st.sampled_from(dtypes)))


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=120, deadline=None)
@given(
    case=rows_of_candidates(),
    gap=st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.7]),
    window=st.integers(1, 4),
    margin=st.sampled_from([0.0, 0.2, -0.1]),
)
def test_both_forms_equal_the_definition(case, gap, window, margin, form):
    scores, labels = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hinge, "SWEPT_FROM", FORMS[form])
        found = hinge_discordance(
            torch.from_numpy(scores),
            torch.from_numpy(labels),
            gap=float(labels.dtype.type(gap)),
            window=window,
            margin=margin,
        )
    sums, counts, slopes = definition(scores, labels, gap, window, margin)
    np.testing.assert_array_equal(found[1], counts)
    np.testing.assert_array_equal(found[2], slopes)
    precision = 1e-10 if scores.dtype == np.float64 else 1e-5
    np.testing.assert_allclose(found[0], sums, rtol=precision, atol=precision)


@pytest.mark.parametrize("columns", [63, 64, 65, 128, 700])
def test_a_sweep_counts_as_comparing_does_across_machine_words(columns, monkeypatch):
    generator = torch.Generator().manual_seed(columns)
    scores = torch.randn(70, columns, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, columns // 2, (70, columns), generator=generator).double()
    monkeypatch.setattr(hinge, "SWEPT_FROM", 1)
    found = hinge_discordance(scores, labels, gap=3.0, window=1, margin=0.1)
    monkeypatch.setattr(hinge, "SWEPT_FROM", 10**9)
    for value, expected in zip(found, hinge_discordance(scores, labels, gap=3.0, window=1, margin=0.1), strict=True):
        assert torch.equal(value, expected)
    blocks = _in_blocks(scores, labels, 3.0, "hinge", 0.1, 1.0, _weights(labels, "exact", 1, 1))
    assert torch.equal(found[1], blocks[1])
    assert torch.equal(found[2], blocks[2])
    torch.testing.assert_close(found[0], blocks[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_labels_are_compared_as_their_rounded_difference(dtype):
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(8, 90, generator=generator)
    labels = torch.rand(8, 90, generator=generator).to(dtype)
    gaps = (labels[0, :8, None] - labels[0, None, 8:24]).abs().flatten().tolist()  # hit differences exactly
    for gap in gaps:
        _, counts = row_discordance(scores, labels, gap=gap, surrogate="hinge", margin=0.0, tau=1.0)
        differences = labels[:, :, None] - labels[:, None, :]  # in the labels' own dtype
        assert torch.equal(counts, (differences > torch.tensor(gap, dtype=dtype)).sum((1, 2)).double())


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_the_number_of_threads_changes_nothing(threads):
    generator = torch.Generator().manual_seed(4)
    scores, labels = torch.randn(200, 300, generator=generator), torch.rand(200, 300, generator=generator)
    results = []
    for number in (1, 3):
        threads(number)
        results.append(hinge_discordance(scores, labels, gap=0.1, window=1, margin=0.0))
    for one, three in zip(*results, strict=True):
        assert torch.equal(one, three)


def test_a_forked_process_can_count_too(threads):
    threads(2)
    scores, labels = torch.randn(300, 300), torch.rand(300, 300)
    expected, _, _ = hinge_discordance(scores, labels, gap=0.1, window=1, margin=0.0)
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # whoever waits for threads that the fork has not would wait forever
        found, _, _ = hinge_discordance(scores, labels, gap=0.1, window=1, margin=0.0)
        os._exit(0 if torch.equal(found, expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e6])
def test_a_common_offset_costs_no_digits(offset):
    generator = torch.Generator().manual_seed(5)
    steps = torch.randint(-(2**29), 2**29, (4, 40), generator=generator).double() / 2**30  # exact beside the offset
    labels = torch.rand(4, 40, generator=generator)
    expected, _, _ = hinge_discordance(steps, labels, gap=0.1, window=1, margin=0.0)
    found, _, _ = hinge_discordance(steps + offset, labels, gap=0.1, window=1, margin=0.0)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("columns", [5, 300])
def test_scores_at_the_end_of_the_range_give_no_nan(columns):
    scores = torch.full((2, columns), 1.7e308, dtype=torch.float64)
    scores[:, ::2] *= -1
    sums, _, slopes = hinge_discordance(
        scores, torch.linspace(0, 1, columns).expand(2, -1), gap=0.0, window=1, margin=0.0
    )
    assert not torch.isnan(sums).any()
    assert (sums > 0).all()
    assert torch.isfinite(slopes).all()
