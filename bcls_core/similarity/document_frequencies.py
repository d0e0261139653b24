"""In how many images' captions each n-gram occurs: the frozen table behind tf-idf."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bcls_core.errors import ShapeError, StoreError
from bcls_core.similarity.tokens import LONGEST_NGRAM, ngrams, order_of

TABLE_SCHEMA = pa.schema(
    [
        pa.field("ngram", pa.string(), nullable=False),
        pa.field("id", pa.int32(), nullable=False),
        pa.field("df", pa.int64(), nullable=False),
    ]
)
_MAX_IDS = 2**31 - 1


@dataclass(frozen=True)
class DocumentFrequencies:
    """Ids and inverse document frequencies of n-grams.

    The table's first row is the empty n-gram, id 0, which every image holds: its count is the number of images. The
    others follow by length, then alphabetically, so ids do not depend on the order in which captions were read; those
    of an extension follow in the same way after them. N-grams with a count of 0 are known by id only: they occur
    outside the images counted.

    Attributes:
        ids: n-gram -> id.
        counts: (n-grams,) images that hold the n-gram, by id.
    """

    ids: dict[str, int]
    counts: NDArray[np.int64]

    @property
    def images(self) -> int:
        """How many images were counted."""
        return int(self.counts[0])

    def weights(self) -> NDArray[np.float64]:
        """(n-grams,) inverse document frequencies `log N - log max(1, df)`."""
        distinct, place = np.unique(np.maximum(self.counts, 1), return_inverse=True)
        # math.log of the few distinct counts: numpy's vectorised log may differ in the last bit between machines.
        by_count = np.array([math.log(self.images) - math.log(count) for count in distinct.tolist()])
        weights: NDArray[np.float64] = by_count[place]
        return weights

    @property
    def weight_of_unknown(self) -> float:
        """`log N`: an n-gram never seen weighs as much as one seen in a single image."""
        return math.log(self.images)

    def extended(self, names: Iterable[str]) -> DocumentFrequencies:
        """With ids, after all others, for n-grams that have none: no weight changes, and no id of a known n-gram.

        Raises:
            ShapeError: there are more n-grams than int32 ids.
        """
        strange = sorted((name for name in set(names) if name not in self.ids), key=lambda name: (order_of(name), name))
        _require_ids(len(self.ids) + len(strange))
        ids = self.ids | {name: len(self.ids) + place for place, name in enumerate(strange)}
        return DocumentFrequencies(ids, np.concatenate([self.counts, np.zeros(len(strange), dtype=np.int64)]))

    def to_table(self) -> pa.Table:
        """The table a label set keeps, in order of ids."""
        names = pa.array(list(self.ids), type=pa.string())  # a dict keeps the order of its keys, here that of ids
        ids = pa.array(np.arange(len(self.ids), dtype=np.int32))
        return pa.table([names, ids, pa.array(self.counts)], schema=TABLE_SCHEMA)

    @classmethod
    def from_table(cls, table: pa.Table) -> DocumentFrequencies:
        """The inverse of `to_table`.

        Raises:
            StoreError: ids are not 0, 1, 2, ... with the empty n-gram first.
        """
        ids = table.column("id").to_numpy()
        names = table.column("ngram").to_pylist()
        if not len(ids) or names[0] != "" or not np.array_equal(ids, np.arange(len(ids))):
            raise StoreError(
                "document_frequencies: ids do not count up from the empty n-gram's 0. Make the labels again."
            )
        return cls(dict(zip(names, range(len(names)), strict=True)), table.column("df").to_numpy().astype(np.int64))


class DocumentCounter:
    """Counts n-grams over images, a shard at a time."""

    def __init__(self) -> None:
        self._images = 0
        self._counts: Counter[str] = Counter()

    def add(self, captions: Sequence[str], image_ids: Iterable[Any], *, counted: bool = True) -> None:
        """Takes in captions; all captions of an image must come in the same call.

        Args:
            captions: any order.
            image_ids: the image of each caption.
            counted: False for captions whose n-grams need ids but must not influence any weight.
        """
        images: dict[Any, int] = {}
        documents = [images.setdefault(image, len(images)) for _, image in zip(captions, image_ids, strict=True)]
        found = ngrams(captions)
        if not counted:
            self._counts.update(dict.fromkeys(found.names, 0))
            return
        self._images += len(images)
        document_of = np.array(documents, dtype=np.int64)[found.captions]
        held = np.sort(found.numbers * len(images) + document_of)
        once = held[np.diff(held, prepend=-1) > 0]  # an n-gram counts once an image
        counts = np.bincount(once // max(len(images), 1), minlength=len(found.names))
        self._counts.update(dict(zip(found.names, counts.tolist(), strict=True)))

    def frequencies(self) -> DocumentFrequencies:
        """What was counted.

        Raises:
            ShapeError: no image was counted, or there are more n-grams than int32 ids.
        """
        if not self._images:
            raise ShapeError("document frequencies of no image are undefined. Give at least one image's captions.")
        _require_ids(1 + len(self._counts))
        by_order: list[list[str]] = [[] for _ in range(LONGEST_NGRAM + 1)]
        for ngram in self._counts:
            by_order[order_of(ngram)].append(ngram)
        names = ["", *(ngram for same in by_order for ngram in sorted(same))]
        counts = [self._images, *(self._counts[name] for name in names[1:])]
        return DocumentFrequencies({name: i for i, name in enumerate(names)}, np.array(counts, dtype=np.int64))


def _require_ids(names: int) -> None:
    if names > _MAX_IDS:
        raise ShapeError(f"found {names} n-grams, at most {_MAX_IDS} can have ids. Split the corpus.")
