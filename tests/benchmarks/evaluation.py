"""A COCO 5K evaluation against the package that publishes its ground truth, against sorting everything, and scipy.

    python -m tests.benchmarks.evaluation    # writes tests/benchmarks/results/evaluation.json

5,000 images and 25,000 captions under COCO's own ids, with made-up encodings: a caption is its image with noise, more
for some images than for others, and images that CxC and ECCV Caption call alike share a part. The package
`eccv_caption` takes rankings of the whole gallery as lists of ids, which are timed apart. Labels are inner products of
images, so that the captions of one image tie. Peers take turns on the same threads; times are medians. Memory is that
of a process of its own, which loads the encodings and evaluates them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from eccv_caption import Metrics
from threadpoolctl import threadpool_info

from bcls_core.metrics import CocoGroundTruth, Products, coco_queries, retrieval_from_encodings
from bcls_core.metrics.coco import CocoQueries
from bcls_core.metrics.graded import GradedQueries, graded_queries
from bcls_core.metrics.query_results import RESAMPLES, QueryResults
from bcls_core.metrics.ranks import positives_of_captions
from tests.benchmarks import evaluation_peers as peers
from tests.benchmarks import measure, record
from tests.benchmarks.evaluation_peers import Floats

DIMENSIONS, NOISE, SPREAD, ALIKE = 512, 7.0, 0.5, 0.3
ROUNDS, CALLS, SAMPLE = 2, 5, 100
KS = (10, 100)
EARLY = 100  # ranks; no R is above 48, and the first 10 of a fold are about the first 50


@dataclass(frozen=True, eq=False)
class Gallery:
    """The COCO 5K test in the order of its ground truth.

    Attributes:
        images: (images, dimensions), of unit length.
        captions: (captions, dimensions), of unit length.
    """

    truth: CocoGroundTruth
    images: Floats
    captions: Floats

    @property
    def all(self) -> tuple[CocoGroundTruth, Floats, Floats]:
        return self.truth, self.images, self.captions

    def queries(self) -> CocoQueries:
        ids, rows = self.truth.captions.values, self.truth.caption_image
        return coco_queries(self.images, self.captions, ids, rows, ground_truth=self.truth)

    def metrics(self) -> dict[str, float]:
        return self.queries().metrics()


def gallery(seed: int = 0) -> Gallery:
    truth, generator = CocoGroundTruth.load(), np.random.default_rng(seed)
    apart = generator.standard_normal((len(truth.images), DIMENSIONS), dtype=np.float32)
    images = apart.copy()
    for judgements in (truth.cxc, truth.eccv):
        positives = judgements.i2t.positives
        np.add.at(images, positives.query, np.float32(ALIKE) * apart[truth.caption_image[positives.entries]])
    images = _unit(images)
    strength = NOISE / np.sqrt(DIMENSIONS) * np.exp(SPREAD * generator.standard_normal(len(images)))
    noise = generator.standard_normal((len(truth.captions), DIMENSIONS), dtype=np.float32)
    noise *= strength.astype(np.float32)[truth.caption_image, None]
    return Gallery(truth, images, _unit(images[truth.caption_image] + noise))


def _unit(rows: Floats) -> Floats:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def benchmarks(coco: Gallery) -> dict[str, Any]:
    """COCO 1K and 5K, CxC and ECCV Caption from encodings, the largest difference to either peer at most 1e-9."""
    package, seconds = Metrics(), defaultdict[str, list[float]](list)
    ours = coco.metrics()  # compiled
    for _ in range(ROUNDS):
        for _ in range(CALLS):
            timed(seconds["ours"], coco.metrics)
        lists = timed(seconds["rankings"], lambda: peers.rankings(*coco.all))
        theirs = timed(seconds["eccv_caption, rankings ready"], partial(peers.eccv_caption, package, *lists))
        del lists
        brute = timed(seconds["brute force"], lambda: peers.brute_force(*coco.all))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    medians["eccv_caption"] = medians["rankings"] + medians["eccv_caption, rankings ready"]
    others = [name for name in medians if name not in ("ours", "rankings")]
    return {
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "times faster": {name: round(medians[name] / medians["ours"], 1) for name in others},
        "metrics": {name: round(value, 3) for name, value in ours.items()},
        "deciding ties": deciding_ties(coco),
        "largest difference": {
            name: _difference([value - ours[metric] for metric, value in found.items()])
            for name, found in (("eccv_caption", theirs), ("brute force", brute))
        },
    }


def deciding_ties(coco: Gallery) -> int:
    """Positives that are early enough to count and share their score: there a sort's habits would decide."""
    found = 0
    for _, scores, own, _ in peers.directions(coco.truth, peers.score_matrix(coco.images, coco.captions)):
        rows = np.ascontiguousarray(scores)
        for relevance in own.values():
            positives = relevance.positives
            for query in relevance.asked:
                row = rows[query]
                of_query = row[positives.entries[positives.starts[query] : positives.starts[query + 1]]]
                early = of_query[of_query >= np.partition(row, -EARLY)[-EARLY]]
                found += sum(int(np.count_nonzero(row == score)) > 1 for score in early)
    assert found == 0, found
    return found


def agreement(coco: Gallery) -> dict[str, Any]:
    """Correlations, CS@K and NCS@K of all queries; of scipy's time only the correlations, of a sample of queries."""
    rows = coco.truth.caption_image
    scores, labels = Products(coco.images, coco.captions), (coco.images @ coco.images.T)[:, rows]
    own = positives_of_captions(rows, scores.images)
    graded_queries(labels[:4, :4], labels[:4, :4], ks=KS)  # compiled
    seconds: list[float] = []
    found = timed(seconds, lambda: graded_queries(scores, labels, own, ks=KS))
    extrapolated, differences = 0.0, []
    sides = zip(found, own, (scores.image_rows, scores.caption_rows), (labels, labels.T), strict=True)
    for queries, positives, read, of_labels in sides:
        times: list[float] = []
        for query in np.random.default_rng(1).choice(len(of_labels), SAMPLE, replace=False):
            s, r = read(query, query + 1)[0], np.ascontiguousarray(of_labels[query])
            values = timed(times, partial(peers.correlations, s, r))
            answers = positives.entries[positives.starts[query] : positives.starts[query + 1]]
            ours = _figures(queries, query)
            differences += [v - ours[name] for name, v in (values | peers.at_the_top(s, r, answers, KS)).items()]
        extrapolated += statistics.mean(times) * len(of_labels)
    return {
        "seconds": {"ours": round(seconds[0], 2), "scipy, correlations alone, extrapolated": round(extrapolated, 1)},
        "times faster": {"scipy, correlations alone, extrapolated": round(extrapolated / seconds[0], 1)},
        "queries compared": 2 * SAMPLE,
        "largest difference": _difference(differences),
    }


def _figures(queries: GradedQueries, query: int) -> dict[str, float]:
    by_cut = {f"cs{k}": queries.coherence[k] for k in KS} | {f"ncs{k}": queries.gain[k] for k in KS}
    columns = {"kendall": queries.kendall, "spearman": queries.spearman, **by_cut}
    return {name: float(values[query]) for name, values in columns.items()}


def intervals(coco: Gallery) -> dict[str, Any]:
    """95 % intervals of everything that `benchmarks` finds."""
    queries, truth = coco.queries(), coco.truth
    columns = [
        {
            name.replace("/", f"/{direction}/"): part if name.endswith("rank") else 100 * part
            for name, part in values.items()
        }
        for direction, values in (("i2t", queries.per_image), ("t2i", queries.per_caption))
    ]
    images = [str(image) for image in truth.images.values]
    results = QueryResults(images, truth.captions.values, truth.caption_image, "", {}, *columns)
    seconds: list[float] = []
    for _ in range(3):
        found = timed(seconds, results.intervals)
    return {"metrics": len(found), "resamples": RESAMPLES, "seconds": round(statistics.median(seconds), 3)}


def timed(times: list[float], call: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    found = call()
    times.append(time.perf_counter() - started)
    return found


def _difference(differences: list[float]) -> float:
    largest = float(np.abs(differences).max())
    assert largest <= 1e-9, largest
    return largest


def memory(folder: Path) -> dict[str, float]:
    """Run in a process of its own: what `metrics` adds, and the most the process had with its libraries."""
    images, captions = (np.load(folder / f"{name}.npy") for name in ("images", "captions"))
    retrieval_from_encodings(images[:1], captions[:1], [0])  # libraries loaded and compiled code at hand
    before = measure.highest_resident_bytes()
    added = measure.peak_bytes(Gallery(CocoGroundTruth.load(), images, captions).metrics)
    highest = max(before, measure.highest_resident_bytes())
    return {"added MiB": round(added / 2**20, 1), "process MiB": round(highest / 2**20, 1)}


def memory_in_a_process(coco: Gallery) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "images.npy", coco.images)
        np.save(Path(folder) / "captions.npy", coco.captions)
        arguments = [sys.executable, "-m", "tests.benchmarks.evaluation", "--memory", folder]
        done = subprocess.run(arguments, cwd=record.REPOSITORY, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def table(found: dict[str, Any]) -> str:
    """Markdown of times and memory."""
    benchmarks, agreement = found["benchmarks"], found["agreement"]
    seconds, times = benchmarks["seconds"], benchmarks["times faster"]
    scipy = "scipy, correlations alone, extrapolated"
    rows = [
        ("COCO 1K and 5K, CxC, ECCV Caption, from encodings", seconds["ours"], ""),
        ("the same by `eccv_caption`, rankings made first", seconds["eccv_caption"], times["eccv_caption"]),
        (
            "`eccv_caption` alone, rankings ready",
            seconds["eccv_caption, rankings ready"],
            times["eccv_caption, rankings ready"],
        ),
        ("the same by sorting everything, numpy", seconds["brute force"], times["brute force"]),
        ("tau-b, rho, CS@K and NCS@K of all 30,000 queries", agreement["seconds"]["ours"], ""),
        ("tau-b and rho by scipy, from a sample", agreement["seconds"][scipy], agreement["times faster"][scipy]),
        (f"intervals of {found['intervals']['metrics']} metrics, 2,000 draws", found["intervals"]["seconds"], ""),
    ]
    lines = ["| what | seconds | ours is faster by |", "|---|--:|--:|"]
    lines += [f"| {what} | {taken:.3g} | {f'{faster:.3g}x' if faster else ''} |" for what, taken, faster in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", type=Path, metavar="FOLDER", help="in this process, for the benchmark itself")
    chosen = parser.parse_args()
    if chosen.memory:
        sys.stdout.write(json.dumps(memory(chosen.memory)))
        return
    coco = gallery()
    blas = max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
    figures = {
        "threads": {"torch": torch.get_num_threads(), "BLAS": blas},
        "gallery": {"images": len(coco.images), "captions": len(coco.captions), "dimensions": DIMENSIONS},
        "memory": memory_in_a_process(coco),
        "benchmarks": benchmarks(coco),
        "agreement": agreement(coco),
        "intervals": intervals(coco),
    }
    record.write("evaluation", "python -m tests.benchmarks.evaluation", figures)


if __name__ == "__main__":
    main()
