"""Neighbours of a changed corpus, built upon those before: seconds against a search of all.

    python -m tests.benchmarks.incremental                          # encodes the captions of Flickr30k first
    python -m tests.benchmarks.incremental --embeddings rows.npy    # (captions, dimension), in the data's order

Captions of Flickr30k, those of one image excluded; of the corpus before, random images are gone and as many others are
new. Both ways start from the stored rows, take turns on the same threads, and must find the same bits. What tells the
changes, a comparison of all stored rows, is timed with them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from bcls_core.similarity import top_k
from bcls_core.similarity.embedding import CosineSimilarity
from bcls_core.similarity.incremental import update_neighbours
from bcls_core.similarity.incremental_changes import kept_captions
from bcls_core.similarity.incremental_lists import Lists
from bcls_core.similarity.measure import FloatArray, IntArray
from bcls_core.similarity.split_rows import SplitRows
from tests.benchmarks import all_pairs, record

K = 32
CHANGED = (0.001, 0.01, 0.1)  # of the images: gone, and as many new
ROUNDS = 3

Found = tuple[FloatArray, IntArray]


def flickr30k(embeddings: Path | None) -> SplitRows:
    """All captions, in the order of the data."""
    folder = Path(os.environ.get("BCLS_DATA", record.REPOSITORY / ".." / "shared"))
    table = pq.read_table(folder / "data" / "flickr30k_captions.parquet", columns=["image_id"])
    images = np.unique(table.column("image_id").to_numpy(zero_copy_only=False), return_inverse=True)[1]
    return SplitRows(np.arange(len(images)), images.astype(np.int64), all_pairs.captions(embeddings))


def part(whole: SplitRows, images: IntArray) -> SplitRows:
    """The captions of some images."""
    chosen = np.flatnonzero(np.isin(whole.images, images))
    return SplitRows(whole.ids[chosen], np.asarray(whole.images)[chosen], np.ascontiguousarray(whole.rows[chosen]))


def anew(split: SplitRows) -> Found:
    """Scores and caption ids."""
    scores, places = top_k(split.rows, K, exclude=split.images)
    return scores, np.where(places >= 0, split.ids[places], -1)


def compare(whole: SplitRows, changed: float) -> dict[str, Any]:
    """Seconds of both ways, and what was done."""
    order = np.random.default_rng(0).permutation(int(np.asarray(whole.images).max()) + 1)
    count = round(changed * len(order))
    before, now = part(whole, order[count:]), part(whole, order[: len(order) - count])
    lists = Lists.of(before.ids, *anew(before))
    seconds: dict[str, list[float]] = {"all": [], "built upon": []}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        found = call()
        seconds[name].append(time.perf_counter() - started)
        return found

    def built() -> Any:
        return update_neighbours(CosineSimilarity(), now, K, lists, kept_captions(before, now))

    for _ in range(ROUNDS):
        wanted = timed("all", lambda: anew(now))
        updated, done = timed("built upon", built)
        for found, other in zip(updated.to_arrays(K), wanted, strict=True):
            np.testing.assert_array_equal(found, other)
    medians = {name: round(statistics.median(times), 2) for name, times in seconds.items()}
    return {
        "captions": len(now),
        "seconds": medians,
        "faster by": round(medians["all"] / medians["built upon"], 1),
        "lists": {name: getattr(done, name) for name in ("kept", "repaired", "new", "removed")},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--embeddings", type=Path)
    whole = flickr30k(parser.parse_args().embeddings)
    top_k(whole.rows[:4096], K)  # compiled code at hand
    figures = {
        "k": K,
        "rounds": ROUNDS,
        "threads": torch.get_num_threads(),
        "images gone and new": {str(changed): compare(whole, changed) for changed in CHANGED},
    }
    record.write("incremental", "python -m tests.benchmarks.incremental", figures)


if __name__ == "__main__":
    main()
