"""What the nearest neighbours of all captions cost: arithmetic, memory, traffic, output and time, before it is spent.

The counts follow the code (`nearest.py`, `labels.py`, `ivf_fit.py`, `ivf.py`). The rate is never a part of the model:
it is measured, or somebody's assumption, and a caller says which. README.md has the tables that come of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bcls_core.errors import ShapeError

HOUR = 3600.0
DAY = 24 * HOUR

ASSUMED_GPU_RATE = 400e12
"""FLOP/s of a data-centre GPU on 16-bit products whose best are kept; an assumption, nothing here was run on one."""

PANEL_COLUMNS = 4032
"""Columns that are packed and met by all rows before the next ones are; fewer where there are few rows."""

TILE_BYTES = 12 * 2**20
"""Packed columns at 384 dimensions, and room for the hits of as many tasks as a sweep of columns has, where panels are
widest (32 columns, AVX-512); a quarter less where they have 16."""

ROW_BYTES = 80
"""Of each row: its norm, its place in the order of the search, floors, counts, norms behind stops, and hashes for a
moment."""

FEWEST_CANDIDATES = 64
"""A query has room for so many, which is in its result if that holds two for each neighbour wanted."""

SAMPLE_PER_CLUSTER, ITERATIONS = 64, 10
"""Of k-means for an inverted file."""


@dataclass(frozen=True)
class Memory:
    """Bytes that one process holds.

    Attributes:
        rows: fp16, as stored.
        integers: the rows as 16-bit integers, and those of the queries if they are other rows.
        results: ids (8 bytes) and scores (4 bytes); candidates live there while they are found.
        beside: numbers of each row, tiles, and candidates where results have no room for them.
    """

    rows: int
    integers: int
    results: int
    beside: int

    @property
    def total(self) -> int:
        return self.rows + self.integers + self.results + self.beside


@dataclass(frozen=True)
class AllPairs:
    """The k nearest of every row, exact.

    Attributes:
        rows: captions.
        dimension: values of a row.
        k: neighbours of each row.
    """

    rows: int
    dimension: int = 384
    k: int = 100

    def __post_init__(self) -> None:
        if min(self.rows, self.dimension, self.k) < 1:
            raise ShapeError(
                f"found rows={self.rows}, dimension={self.dimension}, k={self.k}; each must be at least 1."
            )

    def products(self, *, symmetric: bool = True) -> int:
        """Dot products.

        Args:
            symmetric: each unordered pair once, as one process does; else whole rows, as the shards of a job do, which
                know nothing of each other.
        """
        return self.rows * (self.rows - 1) // 2 if symmetric else self.rows**2

    def multiply_adds(self, *, symmetric: bool = True) -> int:
        return self.dimension * self.products(symmetric=symmetric)

    def flop(self, *, symmetric: bool = True) -> int:
        """Multiplications and additions, two a multiply-add; on a CPU they are those of integers."""
        return 2 * self.multiply_adds(symmetric=symmetric)

    def bytes_read(self, *, symmetric: bool = True) -> int:
        """Bytes of rows that memory delivers: each block of columns once, while it stays in a cache, and for it the
        rows that meet it. Blocks are narrower, and bytes more, below some 80,000 rows."""
        whole, rest = divmod(self.rows, PANEL_COLUMNS)
        blocks = whole + (rest > 0)
        ends = PANEL_COLUMNS * whole * (whole + 1) // 2 + (self.rows if rest else 0)
        met = ends if symmetric else self.rows * blocks
        return 2 * _even(self.dimension) * (met + self.rows)

    def memory(self, queries: int | None = None) -> Memory:
        """Bytes of one process.

        Args:
            queries: of a shard, all of whose rows are among the rows; all rows at once, symmetric, if None.
        Raises:
            ShapeError: fewer than 1 query.
        """
        if queries is not None and queries < 1:
            raise ShapeError(f"found queries={queries}; it must be at least 1.")
        asked = self.rows if queries is None else queries
        held = self.rows if queries is None else self.rows + queries
        candidates = 0 if 2 * self.k >= FEWEST_CANDIDATES else 6 * FEWEST_CANDIDATES * asked
        return Memory(
            rows=2 * self.dimension * held,
            integers=2 * _even(self.dimension) * held,
            results=12 * self.k * asked,
            beside=ROW_BYTES * held + TILE_BYTES + candidates,
        )

    def output_bytes(self) -> int:
        """Bytes of the table `neighbours/MEASURE` before compression: ids, scores, the caption's id, where lists
        begin."""
        return self.rows * (12 * self.k + 16)


@dataclass(frozen=True)
class InvertedFile:
    """The k nearest of every row among the clusters nearest to it: approximate.

    Attributes:
        pairs: what is asked.
        clusters: centroids.
        probes: clusters that a query looks into.
        unevenness: rows of the clusters that queries look into over rows of the mean cluster; 1 if all are equal.
    """

    pairs: AllPairs
    clusters: int
    probes: int
    unevenness: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.probes <= self.clusters <= self.pairs.rows or self.unevenness < 1:
            raise ShapeError(
                f"found probes={self.probes}, clusters={self.clusters}, rows={self.pairs.rows}, "
                f"unevenness={self.unevenness}; expected 1 <= probes <= clusters <= rows, unevenness at least 1."
            )

    @classmethod
    def of(cls, pairs: AllPairs, probes: int) -> InvertedFile:
        """As many clusters as `fit_ivf` makes by default: the square root of the rows."""
        clusters = max(1, round(math.sqrt(pairs.rows)))
        return cls(pairs, clusters, min(probes, clusters))

    def fit_products(self) -> int:
        """Of k-means with a sample, and of filing each row under its centroid."""
        sample = min(self.pairs.rows, SAMPLE_PER_CLUSTER * self.clusters)
        return self.clusters * (ITERATIONS * sample + self.pairs.rows)

    def search_products(self) -> int:
        """Of every row with the centroids, and with the rows of the clusters it looks into."""
        looked_at = self.probes * self.pairs.rows / self.clusters * self.unevenness
        return round(self.pairs.rows * (self.clusters + min(looked_at, self.pairs.rows)))

    def flop(self) -> int:
        return 2 * self.pairs.dimension * (self.fit_products() + self.search_products())


def seconds(flop: float, rate: float) -> float:
    """Time that `flop` take.

    Args:
        rate: FLOP/s.
    Raises:
        ShapeError: the rate is not positive.
    """
    if not rate > 0:
        raise ShapeError(f"found a rate of {rate} FLOP/s; it must be positive.")
    return flop / rate


def hours(flop: float, rate: float) -> float:
    """`seconds` in hours."""
    return seconds(flop, rate) / HOUR


def rate_of_cores(rate: float, measured: int, cores: int) -> float:
    """FLOP/s of `cores`, in proportion to the `rate` of `measured` ones; an extrapolation."""
    if min(measured, cores) < 1:
        raise ShapeError(f"found {measured} measured cores and {cores} cores; each must be at least 1.")
    return rate / measured * cores


def most_rows(time: float, rate: float, dimension: int = 384, *, symmetric: bool = False) -> int:
    """The most rows whose pairs are all compared in some time.

    Args:
        time: seconds.
        rate: FLOP/s.
    """
    products = time * rate / (2 * dimension)
    return math.isqrt(int(products)) if not symmetric else (1 + math.isqrt(1 + 8 * int(products))) // 2


def _even(dimension: int) -> int:
    return dimension + dimension % 2
