from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.errors import ConfigError
from bcls_core.losses import gap_percentile
from bcls_core.losses.gap import resolve_gap


@st.composite
def masked_labels(draw):
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    dtype = draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]))
    value = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(-1, 1))
    labels = torch.tensor([[draw(value) for _ in range(columns)] for _ in range(rows)]).to(dtype)
    return labels, torch.tensor([[draw(st.booleans()) for _ in range(columns)] for _ in range(rows)])


@settings(max_examples=80, deadline=None)
@given(case=masked_labels(), percent=st.sampled_from([0, 10, 50, 60, 99.5, 100]), block=st.sampled_from([1, 20, 10**6]))
def test_percentile_is_numpys_over_all_pairs(case, percent, block):
    labels, positives = case
    differences = [
        abs(row[j] - row[k]).item()
        for row, own in zip(labels, positives, strict=True)
        for j, k in combinations(range(len(row)), 2)
        if not own[j] and not own[k]
    ]
    expected = np.percentile(differences, percent) if differences else 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bcls_core.losses.discordance.CPU_BLOCK", block)
        assert gap_percentile(labels, percent, positives) == pytest.approx(expected, rel=1e-14, abs=1e-300)


def test_the_diagonal_is_left_out_by_default():
    labels = torch.rand(6, 8, generator=torch.Generator().manual_seed(1))
    assert gap_percentile(labels, 60) == gap_percentile(labels, 60, torch.eye(6, 8, dtype=torch.bool))


def test_two_captions_of_other_images_make_a_pair_and_one_makes_none():
    assert gap_percentile(torch.tensor([[1.0, 0.2, 0.5]]), 60) == pytest.approx(0.3, abs=1e-7)
    assert gap_percentile(torch.tensor([[1.0, 0.2], [0.4, 1.0]]), 60) == 0.0


def test_a_number_is_rounded_as_the_labels_are():
    assert resolve_gap(0.3, torch.zeros(2, 2), None) == float(np.float32(0.3))
    assert resolve_gap(0.3, torch.zeros(2, 2, dtype=torch.float64), None) == 0.3


@pytest.mark.parametrize("gap", ["60", "p", "p-1", "q60", "p60%", "p1000", "p100.5", -1e-9, float("nan")])
def test_what_is_no_gap_is_refused(gap):
    with pytest.raises(ConfigError, match="gap: "):
        resolve_gap(gap, torch.rand(3, 3), None)
