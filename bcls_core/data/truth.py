"""The true graded relevance that a demo corpus carries; for judging only, nothing that trains reads it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bcls_core.data.demo.relevance import relevance_from_facts
from bcls_core.store import Artifact

TRUTH_TABLE = "truth"


def true_relevance(corpus: Artifact, image_ids: Sequence[str]) -> NDArray[np.float32] | None:
    """(images, images) true relevance between images of a corpus, or None for a corpus without the truth."""
    if TRUTH_TABLE not in corpus.tables:
        return None
    facts: dict[str, list[str]] = {}
    for table in corpus.scan(TRUTH_TABLE):
        facts.update(zip(table["image_id"].to_pylist(), table["facts"].to_pylist(), strict=True))
    wanted = [facts[str(image_id)] for image_id in image_ids]
    return relevance_from_facts(wanted, wanted)
