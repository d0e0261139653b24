"""All pairs of real captions by CIDEr and CIDEr-D against scipy's sparse products, and both against people.

    python -m tests.benchmarks.cider    # writes tests/benchmarks/results/cider.json

Captions of Flickr30k; neighbours are the 100 best captions of other images. The peer multiplies sparse matrices by
scipy, on one thread, tile by tile, and keeps the best of dense tiles: for all captions it is timed on a sample of
queries and extrapolated. Results are compared bit for bit. Memory is that of a process of its own. The people are those
of Crisscrossed Captions (validation pairs of COCO captions).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from scipy import sparse
from scipy.stats import spearmanr

from bcls_core.similarity import Cider
from bcls_core.similarity.cider_d import CiderD
from bcls_core.similarity.counted_rows import CountedRows
from bcls_core.similarity.ranking import BestK
from tests.benchmarks import measure, record

K, SAMPLE_IMAGES, SAMPLE_QUERIES = 100, 4000, 2000
TILE_CELLS = 1 << 22
MEASURES = {"cider": Cider, "cider-d": CiderD}

Found = tuple[Any, Any]


def data() -> Path:
    return Path(os.environ.get("BCLS_DATA", record.REPOSITORY.parent / "shared")) / "data"


def flickr30k(images: int | None = None) -> tuple[list[str], Any]:
    """Captions and the number of each one's image; the first images, or all."""
    table = pq.read_table(data() / "flickr30k_captions.parquet", columns=["image_id", "caption"])
    captions = table.column("caption").to_pylist()
    groups = np.unique(table.column("image_id").to_numpy(zero_copy_only=False), return_inverse=True)[1]
    chosen = np.flatnonzero(groups < (images or len(captions)))
    return [captions[i] for i in chosen], groups[chosen]


def by_scipy(rows: Any, groups: Any, asked: Any) -> Found:
    """Cider neighbours of the rows `asked` from dense tiles of sparse products."""
    rows = sparse.csr_array((rows.data.astype(np.float64), rows.indices, rows.indptr), shape=rows.shape)
    transposed, step = rows.T.tocsr(), max(1, TILE_CELLS // rows.shape[0])
    parts = []
    for first in range(0, len(asked), step):
        block = asked[first : first + step]
        tile = np.minimum((rows[block] @ transposed).toarray() / 4, 1.0).astype(np.float32)
        tile[groups[block][:, None] == groups[None, :]] = -np.inf
        best = BestK(len(block), K)
        best.offer_block(tile, 0)
        parts.append(best.result())
    return np.concatenate([scores for scores, _ in parts]), np.concatenate([ids for _, ids in parts])


def neighbours(name: str, rows: CountedRows, groups: Any, asked: Any = None) -> Found:
    similarity, stored = MEASURES[name].similarity, rows.weights if name == "cider" else rows
    if asked is None:
        return similarity.top_k(stored, K, exclude=groups)
    return similarity.top_k(stored, K, queries=stored[asked], exclude=groups, exclude_queries=groups[asked])


def on_one_thread(call: Callable[[], Found]) -> Found:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return call()
    finally:
        torch.set_num_threads(threads)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    found = call()
    return time.perf_counter() - started, found


def sample() -> dict[str, Any]:
    """All pairs of some captions by every peer, in turns."""
    captions, groups = flickr30k(SAMPLE_IMAGES)
    rows = CiderD.fit(captions, groups).represent(captions)
    everything = np.arange(len(captions))
    peers = {
        "scipy": partial(by_scipy, rows.weights, groups, everything),
        "cider, one thread": partial(on_one_thread, partial(neighbours, "cider", rows, groups)),
        "cider": partial(neighbours, "cider", rows, groups),
        "cider-d": partial(neighbours, "cider-d", rows, groups),
    }
    neighbours("cider", rows[:400], groups[:400])  # compiled
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(3):
        found = {}
        for name, call in peers.items():
            taken, found[name] = timed(call)
            seconds[name].append(taken)
        equal(found["cider"], found["scipy"])
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "captions": len(captions),
        "seconds": {name: round(value, 2) for name, value in medians.items()},
        "times faster than scipy": {
            name: round(medians["scipy"] / value, 1) for name, value in medians.items() if name != "scipy"
        },
    }


def equal(ours: Found, theirs: Found) -> None:
    assert ours[0].tobytes() == theirs[0].tobytes()
    assert np.array_equal(ours[1], theirs[1])


def everything() -> dict[str, Any]:
    """All pairs of all captions."""
    captions, groups = flickr30k()
    seconds: dict[str, float] = {}
    seconds["fit"], cider_d = timed(lambda: CiderD.fit(captions, groups))
    seconds["represent"], rows = timed(lambda: cider_d.represent(captions))
    asked = np.random.default_rng(0).choice(len(captions), SAMPLE_QUERIES, replace=False)
    taken, expected = timed(lambda: by_scipy(rows.weights, groups, asked))
    seconds["scipy, extrapolated"] = taken * len(captions) / len(asked)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.npz"
        cells = {"weights": rows.weights.data, "indices": rows.weights.indices, "indptr": rows.weights.indptr}
        of_rows = {"counts": rows.counts.data, "lengths": rows.lengths, "shape": rows.shape}
        np.savez(file, groups=groups, asked=asked, scores=expected[0], ids=expected[1], **cells, **of_rows)
        arguments = [sys.executable, "-m", "tests.benchmarks.cider", "--search", str(file)]
        done = subprocess.run(arguments, cwd=record.REPOSITORY, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    seconds |= found.pop("seconds")
    return found | {
        "captions": len(captions),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "times faster than scipy": {
            name: round(seconds["scipy, extrapolated"] / seconds[name], 1) for name in MEASURES
        },
        "result MiB": round(len(captions) * K * 12 / 2**20),
    }


def search_alone(file: Path) -> dict[str, Any]:
    """Run in a process of its own: seconds and memory of both searches."""
    saved = dict(np.load(file))
    shape = tuple(saved["shape"].tolist())
    weights, counts = (
        sparse.csr_array((saved[name], saved["indices"], saved["indptr"]), shape=shape)
        for name in ("weights", "counts")
    )
    rows, groups, asked = CountedRows(weights, counts, saved["lengths"]), saved["groups"], saved["asked"]
    seconds: dict[str, float] = {}
    memory: dict[str, int] = {}
    for name in MEASURES:
        neighbours(name, rows[:400], groups[:400])  # compiled
        kept: list[Found] = []

        def search(name: str = name, kept: list[Found] = kept) -> None:
            seconds[name], found = timed(lambda: neighbours(name, rows, groups))
            kept.append(found)

        memory[name] = round(measure.peak_bytes(search) / 2**20)
        if name == "cider":
            equal((kept[0][0][asked], kept[0][1][asked]), (saved["scores"], saved["ids"]))
    return {"seconds": seconds, "added MiB, with the result": memory}


def quality() -> dict[str, Any]:
    """Spearman's rho with people, document frequencies from Flickr30k's captions and from the judged captions."""
    with gzip.open(data() / "cxc_sts_val.csv.gz", "rt", newline="") as file:
        pairs = list(csv.DictReader(file))
    left, right = ([pair[name] for pair in pairs] for name in ("caption_a", "caption_b"))
    human = [float(pair["human_score"]) for pair in pairs]
    judged = sorted({*left, *right})
    found: dict[str, Any] = {"pairs": len(human)}
    for source, captions, images in (("flickr30k", *flickr30k()), ("judged captions", judged, range(len(judged)))):
        frequencies = Cider.fit(captions, images).frequencies
        found[f"frequencies of {source}"] = {
            name: round(float(spearmanr(kind(frequencies).pairs(left, right), human).statistic), 4)
            for name, kind in MEASURES.items()
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", type=Path, metavar="FILE", help="in this process, for the benchmark itself")
    chosen = parser.parse_args()
    if chosen.search:
        sys.stdout.write(json.dumps(search_alone(chosen.search)))
        return
    figures = {
        "threads": torch.get_num_threads(),
        "k": K,
        "all": everything(),
        "sample": sample(),
        "spearman with people": quality(),
    }
    record.write("cider", "python -m tests.benchmarks.cider", figures)


if __name__ == "__main__":
    main()
