"""How far apart two labels of one image usually are: what a gap like "p60" means for a measure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bcls_core.errors import ConfigError, ShapeError, StoreError
from bcls_core.similarity.measure import FloatArray, IntArray

GAPS_VERSION = 1
"""Raised by hand whenever sampled quantiles change."""

GAPS_TABLE = "gap_quantiles"
GAPS_SCHEMA = pa.schema(
    [
        pa.field("measure", pa.string(), nullable=False),
        pa.field("quantile", pa.float64(), nullable=False),
        pa.field("gap", pa.float64(), nullable=False),
    ]
)

_PERCENTILES = np.arange(101)
_BLOCK_IMAGES, _BLOCK_CAPTIONS = 64, 256

RelevanceRows = Callable[[Sequence[IntArray], IntArray], FloatArray]


@dataclass(frozen=True)
class GapQuantiles:
    """Percentiles 0, 1, ..., 100 of `|R_ij - R_ik|` of one measure, in its label units."""

    values: NDArray[np.float64]

    def resolve(self, gap: float | str) -> float:
        """A gap in label units, from a number in label units or a percentile such as "p60".

        Raises:
            ConfigError: neither.
        """
        return resolve_gap(gap, self.values)

    def to_table(self, measure: str) -> pa.Table:
        """Rows of the label set's table `gap_quantiles`."""
        names = pa.array([measure] * len(self.values), type=pa.string())
        return pa.table([names, _PERCENTILES / 100, self.values], schema=GAPS_SCHEMA)

    @classmethod
    def from_table(cls, table: pa.Table, measure: str) -> GapQuantiles:
        """The inverse of `to_table`, out of a table with several measures.

        Raises:
            StoreError: the table does not hold the percentiles of `measure`.
        """
        rows = table.filter(pc.equal(table.column("measure"), measure)).sort_by("quantile")
        values = rows.column("gap").to_numpy()
        if len(values) != len(_PERCENTILES):
            raise StoreError(
                f"gap_quantiles has {len(values)} rows of {measure!r}, expected 101. Make the labels again."
            )
        return cls(values)


def resolve_gap(gap: float | str, quantiles: NDArray[np.float64]) -> float:
    """A gap in label units; "p60" is the 60th percentile in `quantiles`, (101,), "p62.5" lies between two.

    Raises:
        ConfigError: neither a number from 0 on nor a percentile from p0 to p100.
    """
    match = re.fullmatch(r"p(\d{1,3}(?:\.\d+)?)", gap) if isinstance(gap, str) else None
    if match and float(match[1]) <= 100:
        return float(np.interp(float(match[1]), _PERCENTILES, quantiles))
    if isinstance(gap, str) or not 0 <= gap < float("inf"):
        raise ConfigError(f"gap: found {gap!r}, expected a number from 0 on in label units, or a percentile like p60.")
    return float(gap)


def sample_gaps(
    relevance: RelevanceRows, caption_ids: IntArray, image_of_caption: IntArray, pairs: int, seed: int
) -> GapQuantiles:
    """Quantiles of `|R_ij - R_ik|` within rows, over random images i and random captions j, k that are not i's own.

    Differences are taken in fp32, the labels' own type, as losses take them. Images and captions are drawn in blocks of
    64 x 256, without repeats inside a block: the same sample whoever computes it.

    Args:
        relevance: (captions of each image, captions) -> (images, captions) labels.
        caption_ids: (captions,) of one split, any order.
        image_of_caption: (captions,) number of each caption's image, 0, 1, ... without holes.
        pairs: image-caption pairs to draw, at least 2; two make one difference.
        seed: of the draw.
    Raises:
        ShapeError: no image has two captions of other images.
    """
    order = np.lexsort((caption_ids, image_of_caption))
    ids, image_of = caption_ids[order], image_of_caption[order]
    starts = np.searchsorted(image_of, np.arange(image_of.max(initial=-1) + 2))
    images = min(_BLOCK_IMAGES, len(starts) - 1)
    captions = min(_BLOCK_CAPTIONS, len(ids)) // 2 * 2
    found: list[FloatArray] = []
    for block in range(-(-pairs // max(1, images * captions))):
        dice = np.random.default_rng([seed, block])
        image_rows = dice.choice(len(starts) - 1, size=images, replace=False)
        caption_rows = dice.choice(len(ids), size=captions, replace=False)
        labels = relevance([ids[starts[row] : starts[row + 1]] for row in image_rows], ids[caption_rows])
        foreign = image_of[caption_rows][None, :] != image_rows[:, None]
        both = foreign[:, 0::2] & foreign[:, 1::2]
        found.append(np.abs(labels[:, 0::2] - labels[:, 1::2])[both])
    differences = np.concatenate(found) if found else np.empty(0, dtype=np.float32)
    if not len(differences):
        raise ShapeError(f"found {len(ids)} captions, and no image with two captions of other images. Use more images.")
    return GapQuantiles(np.percentile(differences.astype(np.float64), _PERCENTILES))
