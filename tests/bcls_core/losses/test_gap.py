from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.errors import ConfigError, ShapeError
from bcls_core.losses import gap_percentile
from bcls_core.losses.gap import resolve_gap


@st.composite
def masked_labels(draw):
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    dtype = draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]))
    value = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(-1, 1))
    labels = torch.tensor([[draw(value) for _ in range(columns)] for _ in range(rows)]).to(dtype)
    return labels, torch.tensor([[draw(st.booleans()) for _ in range(columns)] for _ in range(rows)])


@settings(max_examples=150, deadline=None)
@given(case=masked_labels(), percent=st.sampled_from([0, 10, 50, 60, 99.5, 100]), few=st.sampled_from([0, 20, 2**17]))
def test_percentile_is_numpys_over_all_pairs(case, percent, few):
    labels, positives = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bcls_core.losses.gap._FEW", few)
        found = gap_percentile(labels, percent, positives)
    assert found == pytest.approx(by_definition(labels, percent, positives), rel=1e-14, abs=1e-300)


@pytest.mark.parametrize("percent", [0, 3, 60, 97.3, 100])
@pytest.mark.parametrize("kind", ["even", "grid", "clustered", "equal"])
def test_a_percentile_of_a_batch_is_numpys(kind, percent):
    drawn = torch.rand(40, 48, generator=torch.Generator().manual_seed(3))
    labels = {"even": drawn, "grid": (drawn * 20).round() / 20, "clustered": drawn**9, "equal": drawn * 0}[kind]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bcls_core.losses.gap._FEW", 0)  # 42,000 differences, of which 4,000 are few enough to list
        found = gap_percentile(labels, percent)
    assert found == pytest.approx(by_definition(labels, percent, torch.eye(40, 48, dtype=torch.bool)), rel=1e-14)


def by_definition(labels, percent, positives):
    differences = [
        abs(row[j] - row[k]).item()
        for row, own in zip(labels.unbind(), positives.tolist(), strict=True)
        for j, k in combinations([place for place, positive in enumerate(own) if not positive], 2)
    ]
    return np.percentile(differences, percent) if differences else 0.0


def test_the_diagonal_is_left_out_by_default():
    labels = torch.rand(6, 8, generator=torch.Generator().manual_seed(1))
    assert gap_percentile(labels, 60) == gap_percentile(labels, 60, torch.eye(6, 8, dtype=torch.bool))


def test_two_captions_of_other_images_make_a_pair_and_one_makes_none():
    assert gap_percentile(torch.tensor([[1.0, 0.2, 0.5]]), 60) == pytest.approx(0.3, abs=1e-7)
    assert gap_percentile(torch.tensor([[1.0, 0.2], [0.4, 1.0]]), 60) == 0.0


def test_a_number_is_taken_as_it_is():
    assert resolve_gap(0.3, torch.zeros(2, 2, dtype=torch.float16), None) == 0.3


@pytest.mark.parametrize(
    ("labels", "positives", "message"),
    [
        (torch.tensor([[0.0, torch.nan]]), torch.zeros(1, 2, dtype=torch.bool), "labels: nan at row 0, column 1"),
        (torch.zeros(0, 5), torch.zeros(0, 5, dtype=torch.bool), r"labels: shape \(0, 5\)"),
        (torch.ones(2, 2, dtype=torch.int64), None, "labels: torch.int64"),
        (torch.ones(2, 2), torch.eye(3, dtype=torch.bool), r"positives: shape \(3, 3\), but labels has \(2, 2\)"),
        (torch.ones(2), None, r"labels: shape \(2,\)"),
    ],
)
def test_what_are_no_labels_is_refused(labels, positives, message):
    with pytest.raises(ShapeError, match=message):
        gap_percentile(labels, 60, positives)


@pytest.mark.parametrize("percent", [-1, 100.5, float("nan")])
def test_a_percentage_out_of_range_is_refused(percent):
    with pytest.raises(ConfigError, match=r"gap: percentile .*, expected 0 to 100"):
        gap_percentile(torch.rand(3, 3), percent)


@pytest.mark.parametrize("gap", ["60", "p", "p-1", "q60", "p60%", "p1000", "p100.5", -1e-9, float("nan")])
def test_what_is_no_gap_is_refused(gap):
    with pytest.raises(ConfigError, match="gap: "):
        resolve_gap(gap, torch.rand(3, 3), None)
