"""The rank of the best positive, by counting what stands before it: no sort, and one strip of scores at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Strip = Callable[[int, int], Tensor]


def best_positive_ranks(strip: Strip, rows: int, queries: Tensor, gallery: Tensor, block: int) -> Tensor:
    """For every query the number of entries before its best positive in the order of a stable descending sort.

    An entry stands before another if its score is higher, or equal and its index lower. Exact for every dtype,
    infinities included.

    Args:
        strip: `strip(start, stop)` gives the scores (stop - start, gallery) of some queries; called once for each.
        rows: number of queries.
        queries, gallery: (pairs,) int64, the positives: query `queries[p]` has gallery entry `gallery[p]`.
        block: queries a strip.

    Returns:
        (rows,) int64, 0 for the best; -1 for a query without a positive.
    """
    ranks = torch.full((rows,), -1, dtype=torch.int64)
    for start in range(0, rows, block):
        scores = strip(start, min(start + block, rows))
        inside = ((queries >= start) & (queries < start + block)).nonzero()[:, 0]
        row, entry = (queries[inside] - start).to(scores.device), gallery[inside].to(scores.device)
        first, best = _best(scores, row, entry)
        index = torch.arange(scores.shape[1], device=scores.device)
        before = torch.where(index < first[:, None], scores >= best[:, None], scores > best[:, None])
        counted = before.sum(1).cpu()
        asked = torch.zeros(len(scores), dtype=torch.bool).index_fill_(0, row.cpu(), True)
        ranks[start : start + len(scores)] = torch.where(asked, counted, -1)
    return ranks


def _best(scores: Tensor, row: Tensor, entry: Tensor) -> tuple[Tensor, Tensor]:
    """Index and score of each row's best positive: the highest, of equals the first."""
    own = scores[row, entry]
    best = torch.zeros(len(scores), dtype=scores.dtype, device=scores.device)
    best.scatter_reduce_(0, row, own, "amax", include_self=False)
    top = own == best[row]
    first = torch.full((len(scores),), scores.shape[1], device=scores.device)
    first.scatter_reduce_(0, row[top], entry[top], "amin")
    return first, best
