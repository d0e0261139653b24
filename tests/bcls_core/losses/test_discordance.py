from __future__ import annotations

from itertools import product

import pytest
import torch

from bcls_core.losses.discordance import row_discordance


@pytest.mark.parametrize("surrogate", ["hinge", "softplus", "sigmoid", "tanh"])
@pytest.mark.parametrize("block", [1, 5, 12, 60, 200])
def test_cutting_into_blocks_changes_nothing(surrogate, block, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(5, 12, dtype=torch.float64, generator=generator)
    labels = torch.rand(5, 12, generator=generator)

    def run():
        leaf = scores.clone().requires_grad_()
        sums, counts = row_discordance(leaf, labels, gap=0.1, surrogate=surrogate, margin=0.1, tau=0.3)
        (sums * torch.arange(1, 6)).sum().backward()
        return sums.detach(), counts, leaf.grad

    whole = run()
    monkeypatch.setattr("bcls_core.losses.blocks.CPU_BLOCK", block)
    for cut, expected in zip(run(), whole, strict=True):
        torch.testing.assert_close(cut, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("gap", "pairs"), [(0.0, 24), (0.28, 16)])
def test_worked_batch_has_the_known_number_of_pairs_each_way(worked_scores, worked_labels, gap, pairs):
    for scores, labels in ((worked_scores, worked_labels), (worked_scores.T, worked_labels.T)):
        _, counts = row_discordance(scores, labels, gap=gap, surrogate="hinge", margin=0.0, tau=1.0)
        assert counts.sum().item() == pairs


def test_counts_stay_whole_numbers_where_float32_would_not():
    size = 6000  # 1.07 * 2^24 pairs in one row
    labels = torch.arange(size, dtype=torch.float32)[None, :]
    _, counts = row_discordance(torch.zeros(1, size), labels, gap=0.0, surrogate="hinge", margin=0.0, tau=1.0)
    assert counts.item() == size * (size - 1) // 2


def test_the_hinge_gradient_counts_violations():
    generator = torch.Generator().manual_seed(2)
    scores = torch.randint(-5, 5, (4, 9), generator=generator).float().requires_grad_()
    labels = torch.randint(0, 5, (4, 9), generator=generator).float() / 4
    sums, _ = row_discordance(scores, labels, gap=0.25, surrogate="hinge", margin=0.5, tau=1.0)
    sums.sum().backward()
    expected = torch.zeros(4, 9)
    for i, j, k in product(range(4), range(9), range(9)):
        if labels[i, j] - labels[i, k] > 0.25 and scores[i, k] + 0.5 > scores[i, j]:
            expected[i, k] += 1
            expected[i, j] -= 1
    assert torch.equal(scores.grad, expected)
