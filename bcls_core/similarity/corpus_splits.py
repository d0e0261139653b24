"""Which caption shards of a corpus belong to which split, and what images their captions describe."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from bcls_core.similarity.measure import IntArray
from bcls_core.store import Artifact

CAPTIONS = "captions"


class CorpusSplits:
    """The splits of a corpus's captions; a shard holds captions of one split.

    Attributes:
        of_shard: the split of each caption shard; None for a shard without captions.
    """

    def __init__(self, corpus: Artifact, *, checked: bool = False) -> None:
        """
        Args:
            checked: whether checksums are compared (`Artifact.read`).
        """
        self._corpus, self._checked = corpus, checked
        self.of_shard = splits_of(corpus, CAPTIONS, checked=checked)

    @property
    def names(self) -> list[str]:
        """Splits in the order in which they appear."""
        return list(dict.fromkeys(split for split in self.of_shard if split is not None))

    def shards(self, split: str | None) -> list[int]:
        """Shards of a split, ascending."""
        return [shard for shard, other in enumerate(self.of_shard) if other == split]

    def images(self, split: str | None) -> tuple[IntArray, IntArray]:
        """Ids of a split's captions, ascending, and the number of each one's image."""
        columns = ["caption_id", "image_id"]
        tables = [self._corpus.read(CAPTIONS, shard, columns, checked=self._checked) for shard in self.shards(split)]
        captions = pa.concat_tables(tables).sort_by("caption_id")
        images = captions.column("image_id").combine_chunks().dictionary_encode()
        return captions.column("caption_id").to_numpy(), images.indices.to_numpy().astype(np.int64)


def splits_of(artifact: Artifact, table: str, *, checked: bool = False) -> list[str | None]:
    """The split of each part of a table whose parts have one; None for a part without rows."""
    tables = (artifact.read(table, part, ["split"], checked=checked) for part in range(len(artifact.parts(table))))
    return [part.column("split")[0].as_py() if part.num_rows else None for part in tables]
