"""Retrieval inside one modality, image to image and caption to caption, and how like people a text encoder judges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcls_core.errors import ShapeError
from bcls_core.metrics.arrays import Matrix, as_numpy, require_matrix, require_no_nan, rows_of
from bcls_core.metrics.ids import Ids, require_ids
from bcls_core.metrics.ranks import Positives, positive_ranks
from bcls_core.metrics.spearman import spearman
from bcls_core.metrics.strips import Products

TOP = (1, 5, 10)

_PAIRS = 2**20  # of a query and a member of its group whose scores are held at once


def image_to_image(encodings: Matrix, groups: Ids) -> dict[str, float]:
    """Leave-one-out retrieval among images: is there an image of the query's class among its nearest.

    Args:
        encodings: (images, dimensions).
        groups: (images,) class of each image.

    Returns, raises:
        As `same_group_retrieval`.
    """
    return same_group_retrieval(encodings, groups)


def caption_to_caption(encodings: Matrix, caption_image: Ids) -> dict[str, float]:
    """Leave-one-out retrieval among captions: is there another caption of the query's image among its nearest.

    Args:
        encodings: (captions, dimensions).
        caption_image: (captions,) row or id of each caption's image.

    Returns, raises:
        As `same_group_retrieval`.
    """
    return same_group_retrieval(encodings, caption_image)


def same_group_retrieval(encodings: Matrix, groups: Ids) -> dict[str, float]:
    """Recall at 1, 5 and 10 where every row is a query over all other rows, and those of its group answer it.

    Args:
        encodings: (rows, dimensions), of unit length where cosines are meant; scores are those of `Products`, equal
            ones are ranked by index, the lower first.
        groups: (rows,) ids, whole numbers or texts. A row that is alone in its group asks no query and stays in the
            gallery of the others.

    Returns:
        `r1`, `r5`, `r10` in percent of the queries; `queries` and `excluded` (counts).

    Raises:
        ShapeError: lengths disagree, an encoding is NaN or infinite (names row and dimension), or no group has two
            members, so that nothing can be asked.
    """
    ranks = same_group_ranks(encodings, groups)
    asked = ranks[ranks >= 0]
    recalls = {f"r{k}": 100 * float((asked < k).mean()) for k in TOP}
    return {**recalls, "queries": float(len(asked)), "excluded": float(len(ranks) - len(asked))}


def same_group_ranks(encodings: Matrix, groups: Ids) -> NDArray[np.int64]:
    """(rows,) rank of the best row of the query's group among all other rows, 0 for the nearest, -1 for a row that is
    alone in its group; arguments and errors of `same_group_retrieval`."""
    rows, _ = require_matrix("encodings", encodings)
    _require_finite("encodings", encodings)
    _, group = np.unique(require_ids("groups", groups, rows), return_inverse=True)
    if len(group) == group.max() + 1:
        raise ShapeError(f"groups: none of the {rows} groups has a second row, so there is nothing to find.")
    products = Products(encodings, encodings)
    found = [_best(products, query, entry) for query, entry in _companions(group)]
    asked, best = (np.concatenate(part) for part in zip(*found, strict=True))
    ranks = np.full(rows, -1, np.int64)
    nothing = np.empty(0, np.int64)
    best_at, _ = positive_ranks(products, Positives.of(asked, best, rows), Positives.of(nothing, nothing, rows))
    # The gallery that was ranked holds the query too, which stands before its best companion or behind it.
    own, other = products.pairs(asked, asked), products.pairs(asked, best)
    ranks[asked] = best_at - ((own > other) | ((own == other) & (asked < best)))
    return ranks


def caption_similarity(
    first_encodings: Matrix, second_encodings: Matrix, human: Tensor | NDArray[Any] | list[float]
) -> dict[str, float]:
    """Spearman's rho of the cosine of two captions with how alike people find them (STS, Crisscrossed Captions).

    Args:
        first_encodings, second_encodings: (pairs, dimensions) the two captions of each pair, of any length but zero.
        human: (pairs,) higher is more alike.

    Returns:
        `spearman`, ties at their average rank, in [-1, 1], NaN where all cosines or all ratings are equal; cosines are
        made in float64 and rounded to float32, so that those of equal pairs are equal. `pairs`, their number.

    Raises:
        ShapeError: shapes disagree, an encoding is zero, NaN or infinite, or a rating NaN (names the row).
    """
    cosines = caption_cosines(first_encodings, second_encodings)
    ratings = np.asarray(as_numpy(human) if isinstance(human, Tensor) else human, dtype=np.float64)
    if ratings.shape != cosines.shape:
        raise ShapeError(f"human: shape {ratings.shape}, expected {cosines.shape}: a rating for each pair.")
    if np.isnan(ratings).any():
        raise ShapeError(f"human: nan at row {int(np.isnan(ratings).argmax())}. Leave that pair out.")
    return {"spearman": spearman(cosines, ratings), "pairs": float(len(cosines))}


def caption_cosines(first_encodings: Matrix, second_encodings: Matrix) -> NDArray[np.float32]:
    """(pairs,) cosine of row i of the one with row i of the other; arguments and errors of `caption_similarity`."""
    shape = require_matrix("first_encodings", first_encodings)
    if require_matrix("second_encodings", second_encodings) != shape:
        raise ShapeError(f"second_encodings: shape {tuple(second_encodings.shape)}, but first_encodings have {shape}.")
    first, second = _unit_rows("first_encodings", first_encodings), _unit_rows("second_encodings", second_encodings)
    cosines: NDArray[np.float32] = np.einsum("nd,nd->n", first, second).astype(np.float32)
    return cosines


def _companions(group: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of a row and another of its group, by row; all pairs of a row come at once, a bounded number at a time."""
    members = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[members], np.arange(group.max() + 2))
    sizes = np.diff(starts)[group]
    begin = 0
    pairs_before = np.concatenate([[0], np.cumsum(sizes)])
    while begin < len(group):
        end = max(begin + 1, int(np.searchsorted(pairs_before, pairs_before[begin] + _PAIRS, side="right")) - 1)
        query = np.repeat(np.arange(begin, end), sizes[begin:end])
        place = np.arange(len(query)) - (pairs_before[query] - pairs_before[begin])
        entry = members[starts[group[query]] + place]
        others = query != entry
        if others.any():
            yield query[others], entry[others]
        begin = end


def _best(
    products: Products, query: NDArray[np.int64], entry: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The queries, each once, and the best of each one's entries: the highest score, of equals the lowest index."""
    order = np.lexsort((entry, -products.pairs(query, entry), query))
    asked, first = np.unique(query, return_index=True)
    return asked, entry[order][first]


def _unit_rows(name: str, values: Matrix) -> NDArray[np.float64]:
    _require_finite(name, values)
    rows = as_numpy(values).astype(np.float64)
    largest = np.abs(rows).max(1, keepdims=True)
    if not largest.all():
        raise ShapeError(
            f"{name}: row {int((largest[:, 0] == 0).argmax())} is zero. It has no direction, so no cosine."
        )
    rows /= largest  # squares of very small or large values would leave the range of float64
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def _require_finite(name: str, values: Matrix) -> None:
    tensor = rows_of(values, 0, values.shape[0])
    require_no_nan(name, tensor)
    infinite = torch.isinf(tensor)
    if bool(infinite.any()):
        row, column = (int(index) for index in infinite.nonzero()[0])
        raise ShapeError(f"{name}: infinite at row {row}, column {column}. Its products are not defined.")
