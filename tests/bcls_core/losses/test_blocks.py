from __future__ import annotations

import pytest
import torch

from bcls_core.losses.blocks import pair_blocks


@pytest.mark.parametrize("block", [1, 7, 20, 30, 36, 100, 10**6])
@pytest.mark.parametrize("shape", [(7, 6), (5, 7), (1, 1)])
def test_blocks_cover_every_pair_once_and_stay_within_their_size(block, shape, monkeypatch):
    monkeypatch.setattr("bcls_core.losses.blocks.CPU_BLOCK", block)
    seen = torch.zeros(shape, dtype=torch.int64)
    for rows, columns in pair_blocks(torch.zeros(shape)):
        part = seen[rows, columns]
        assert part.numel() * shape[1] <= max(block, shape[1])
        part += 1
    assert torch.equal(seen, torch.ones(shape, dtype=torch.int64))
