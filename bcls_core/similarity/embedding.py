"""Cosine of sentence embeddings, on captions and on the fp16 rows a label set stores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from bcls_core.similarity.cosine import StoredRows, cosine_matrix, cosine_pairs
from bcls_core.similarity.measure import FloatArray, Found, Groups, IntArray
from bcls_core.similarity.top_k import Search, top_k

if TYPE_CHECKING:
    from bcls_core.teachers.text import TextTeacher


class CosineSimilarity:
    """Cosine of stored fp16 rows; every form gives the same bits for the same two rows."""

    def pairs(self, a: StoredRows, b: StoredRows) -> FloatArray:
        """(n,) cosines of row i of `a` with row i of `b`."""
        return cosine_pairs(a, b)

    def matrix(self, a: StoredRows, b: StoredRows) -> FloatArray:
        """(len(a), len(b)) cosines."""
        return cosine_matrix(a, b)

    def top_k(
        self,
        rows: ArrayLike,
        k: int,
        *,
        queries: ArrayLike | None = None,
        exclude: Groups | None = None,
        exclude_queries: Groups | None = None,
    ) -> tuple[FloatArray, IntArray]:
        """See `bcls_core.similarity.top_k`."""
        return top_k(rows, k, queries=queries, exclude=exclude, exclude_queries=exclude_queries)

    def search_of(self, rows: StoredRows, k: int, *, exclude: Groups | None = None) -> Callable[[IntArray], Found]:
        """See `bcls_core.similarity.measure.RowSimilarity`."""
        return Search(rows, k, exclude=exclude)


class EmbeddingCosine:
    """Cosine of the embeddings a text teacher gives to two captions, in [-1, 1].

    Captions met once are remembered: an encoder's last bits depend on the other captions of its batch, and all numbers
    of one measure object must agree.
    """

    similarity = CosineSimilarity()

    def __init__(
        self,
        model: str | TextTeacher,
        *,
        revision: str | None = None,
        prompt: str = "",
        device: str = "cpu",
        remember: int = 200_000,
    ) -> None:
        """
        Args:
            model: a sentence-transformers model by hub name, folder or `package:NAME`, or a loaded teacher.
            revision, prompt, device: how a model given by name is loaded.
            remember: captions whose embeddings are kept, oldest forgotten first.
        Raises:
            ModelError: the model cannot be loaded.
        """
        # Imported here: comparing stored rows needs no torch.
        from bcls_core.teachers.text import TextTeacher

        if isinstance(model, str):
            model = TextTeacher(model, revision=revision, prompt=prompt, device=device)
        self.teacher = model
        self._remember = remember
        self._known: dict[str, StoredRows] = {}

    def represent(self, captions: Sequence[str]) -> StoredRows:
        """(captions, dimension) fp16 rows of unit length.

        Raises:
            ModelError: the teacher gives NaN or zero for a caption; the message names it.
        """
        strange = [caption for caption in dict.fromkeys(captions) if caption not in self._known]
        self._known.update(zip(strange, self.teacher.encode(strange), strict=True))
        rows = np.empty((len(captions), self.teacher.dimension), dtype=np.float16)
        for place, caption in enumerate(captions):
            rows[place] = self._known[caption]
        for caption in list(self._known)[: max(0, len(self._known) - self._remember)]:
            del self._known[caption]
        return rows

    def pairs(self, a: Sequence[str], b: Sequence[str]) -> FloatArray:
        """(n,) cosines of caption i of `a` with caption i of `b`."""
        rows = self.represent([*a, *b])
        return self.similarity.pairs(rows[: len(a)], rows[len(a) :])

    def matrix(self, a: Sequence[str], b: Sequence[str]) -> FloatArray:
        """(len(a), len(b)) cosines."""
        rows = self.represent([*a, *b])
        return self.similarity.matrix(rows[: len(a)], rows[len(a) :])

    def top_k(self, captions: Sequence[str], k: int, *, exclude: Groups | None = None) -> tuple[FloatArray, IntArray]:
        """The k captions most similar to each, itself (and its group of `exclude`) left out; as `top_k` of rows."""
        return self.similarity.top_k(self.represent(captions), k, exclude=exclude)
