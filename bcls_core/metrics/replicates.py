"""Statistics of queries whose images are drawn several times or not at all: what a bootstrap evaluates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcls_core.errors import ShapeError
from bcls_core.metrics.arrays import Matrix, as_numpy
from bcls_core.metrics.resamples import ImageResamples

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Statistic(ABC):
    """A number for each multiset of images: `estimate` where every image counts once, `replicates` where it is drawn.

    Attributes:
        estimate: the number itself.
        asked: (images,) int64, distinct, ascending: rows of the images with a query that counts.
        width: columns of `sums`.
        is_mean: a mean or a sum of means, whose interval can be corrected for skewness.
    """

    estimate: float
    asked: Integers
    width: int
    is_mean = False

    @abstractmethod
    def sums(self, images: int) -> Floats:
        """(images, width) per image, what `on` wants summed over the images drawn."""

    @abstractmethod
    def on(self, counts: Floats, sums: Floats) -> Floats:
        """(resamples,) the number for each row of `counts` (resamples, images); `sums` is `counts @ self.sums()`."""

    def replicates(self, resamples: ImageResamples) -> Floats:
        """(resamples,) the number for each draw; NaN where it is not defined on what was drawn.

        Raises:
            ShapeError: a query's image is not among those that are drawn.
        """
        result: Floats = replicates([self], resamples)[0]
        return result


class Mean(Statistic):
    """Mean over the queries that are drawn; a query whose value is NaN is left out of both sum and count.

    Where images have different numbers of queries this is a ratio, and its count varies from draw to draw.

    Args:
        values: (queries,) finite, or NaN to leave a query out.
        image: (queries,) row of each query's image.

    Raises:
        ShapeError: shapes disagree, all values are NaN, or one is infinite (names the query).
    """

    width = 2
    is_mean = True

    def __init__(self, values: Matrix, image: Matrix) -> None:
        kept, rows = _queries(values, image)
        self.asked, place = np.unique(rows, return_inverse=True)
        # Summed image by image as replicates are, so that a draw of every image once gives the estimate.
        self._total = np.bincount(place, weights=kept)
        self._number = np.bincount(place).astype(np.float64)
        self.estimate = float(self._total.sum() / self._number.sum())

    def sums(self, images: int) -> Floats:
        """Sum and number of values."""
        result = np.zeros((images, 2))
        result[self.asked, 0] = self._total
        result[self.asked, 1] = self._number
        return result

    def on(self, counts: Floats, sums: Floats) -> Floats:  # noqa: ARG002 - what other statistics need
        """Defined where a query is drawn."""
        result = np.full(len(sums), np.nan)
        np.divide(sums[:, 0], sums[:, 1], out=result, where=sums[:, 1] > 0)
        return result


class Median(Statistic):
    """Median of the queries that are drawn, each as often as its image; the mean of the middle two for an even number.

    Arguments and errors as for `Mean`.
    """

    width = 1

    def __init__(self, values: Matrix, image: Matrix) -> None:
        kept, rows = _queries(values, image)
        order = np.argsort(kept, kind="stable")
        self._values, self._image = kept[order], rows[order]
        self.asked = np.unique(rows)
        self.estimate = float(np.median(kept))

    def sums(self, images: int) -> Floats:
        """Number of values."""
        return np.bincount(self._image, minlength=images).astype(np.float64)[:, None]

    def on(self, counts: Floats, sums: Floats) -> Floats:
        """Defined where a query is drawn."""
        from bcls_core.metrics.replicate_kernels import medians

        result = np.empty(len(counts))
        medians(counts, self._values, self._image, np.ascontiguousarray(sums[:, 0]), result)
        return result


class Spearman(Statistic):
    """Spearman's rho pooled over the pairs that are drawn, equal values at their average rank.

    The mean over images of each image's own correlation is a `Mean`. `estimate` is NaN where all x or all y are equal.

    Args:
        x, y: (pairs,) finite.
        image: (pairs,) row of each pair's image.

    Raises:
        ShapeError: shapes disagree, there is no pair, or a value is not finite (names the pair).
    """

    width = 0

    def __init__(self, x: Matrix, y: Matrix, image: Matrix) -> None:
        levels = []
        for name, given in (("x", x), ("y", y)):
            kept, self._image = _queries(given, image, name)
            if len(kept) < len(given):
                pair = int(np.isnan(as_numpy(given)).argmax())
                raise ShapeError(f"{name}: nan at pair {pair}. It has no rank: leave the pair out of x, y and image.")
            levels.append(np.unique(kept, return_inverse=True))
        (x_values, self._x), (y_values, self._y) = levels
        self._levels = len(x_values), len(y_values)
        self.asked = np.unique(self._image)
        once = np.ones((1, int(self.asked[-1]) + 1))
        self.estimate = float(self.on(once, once[:, :0])[0])

    def sums(self, images: int) -> Floats:
        """None."""
        return np.empty((images, 0))

    def on(self, counts: Floats, sums: Floats) -> Floats:  # noqa: ARG002 - what other statistics need
        """Defined where two x and two y that are drawn differ."""
        from bcls_core.metrics.replicate_kernels import spearmans

        result = np.empty(len(counts))
        spearmans(counts, self._x, self._y, *self._levels, self._image, result)
        return result


class Total(Statistic):
    """Sum of statistics, as rsum is one of six recalls; not defined where one of them is not.

    Raises:
        ShapeError: there is nothing to sum.
    """

    def __init__(self, parts: Sequence[Statistic]) -> None:
        if not parts:
            raise ShapeError("parts: none, expected at least one statistic to sum.")
        self._parts = tuple(parts)
        self.width = sum(part.width for part in self._parts)
        self.is_mean = all(part.is_mean for part in self._parts)
        self.estimate = float(sum(part.estimate for part in self._parts))
        self.asked = np.unique(np.concatenate([part.asked for part in self._parts]))

    def sums(self, images: int) -> Floats:
        """Those of the parts."""
        return np.concatenate([part.sums(images) for part in self._parts], axis=1)

    def on(self, counts: Floats, sums: Floats) -> Floats:
        """Defined where all parts are."""
        result = np.zeros(len(counts))
        start = 0
        for part in self._parts:
            result += part.on(counts, sums[:, start : start + part.width])
            start += part.width
        return result


def replicates(statistics: Sequence[Statistic], resamples: ImageResamples) -> Floats:
    """(statistics, resamples) each statistic on each draw: one walk over the draws, and one product for all sums.

    Memory: the result, 8 MB of draws, and `images` numbers for each sum.

    Raises:
        ShapeError: a query's image is not among those that are drawn.
    """
    for statistic in statistics:
        if statistic.asked[-1] >= resamples.images:
            raise ShapeError(
                f"image: a query belongs to row {statistic.asked[-1]}, but images are drawn from {resamples.images}."
            )
    per_image = np.concatenate([statistic.sums(resamples.images) for statistic in statistics], axis=1)
    ends = np.cumsum([statistic.width for statistic in statistics])
    result = np.empty((len(statistics), resamples.resamples))
    start = 0
    for counts in resamples.blocks():
        stop = start + len(counts)
        summed = counts @ per_image
        for row, statistic, end in zip(result, statistics, ends, strict=True):
            row[start:stop] = statistic.on(counts, summed[:, end - statistic.width : end])
        start = stop
    return result


def _queries(values: Matrix, image: Matrix, name: str = "values") -> tuple[Floats, Integers]:
    """Values that are not NaN, and the rows of their images."""
    given: NDArray[Any] = as_numpy(values).astype(np.float64)
    rows: NDArray[Any] = as_numpy(image)
    if given.ndim != 1 or rows.shape != given.shape or rows.dtype.kind not in "iu":
        raise ShapeError(
            f"{name}: shape {given.shape}, image: {rows.dtype} of shape {rows.shape}; expected two of (queries,), "
            "the second whole numbers: the row of each query's image."
        )
    for what, wrong in (("infinite", np.isinf(given)), ("of an image with a negative row", rows < 0)):
        if wrong.any():
            query = int(wrong.argmax())
            raise ShapeError(f"{name}: query {query} is {what} ({given[query]}, row {rows[query]}).")
    kept = ~np.isnan(given)
    if not kept.any():
        raise ShapeError(f"{name}: no query of {len(given)} has a value, so there is nothing to estimate.")
    return given[kept], rows[kept].astype(np.int64)
