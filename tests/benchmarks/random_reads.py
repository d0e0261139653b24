"""Pictures a second in random order, from a corpus many times larger than the cache, as a training plan asks for them.

    python -m tests.benchmarks.random_reads

As many random bytes as a photograph of COCO has stand for pictures; nothing is decoded. `stored as they are` reads each
picture from its place in the Parquet file once its row group was seen, `compressed` (as zstd writes them) goes through
row groups, `a file each` is what an image folder would give. Reads are of 128 rows; the first pass over the corpus, in
which places are found, is timed apart. All files are in the system's cache. Medians of rounds in turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bcls_core.data.row_groups import ColumnReader
from bcls_core.data.schema import IMAGES_PER_ROW_GROUP
from bcls_core.store import Store, tables
from tests.benchmarks import record

PICTURES, SHARD = 6400, 512
SMALLEST, LARGEST = 50_000, 250_000
CACHE = 64 * 2**20
BATCH = 128
ROUNDS = 5
AS_PY = methodcaller("as_py")

Take = Callable[[np.ndarray[Any, Any]], list[bytes]]


def pictures_of(shard: int) -> list[bytes]:
    random = np.random.default_rng(shard)
    rows = min(SHARD, PICTURES - shard * SHARD)
    return [random.bytes(int(size)) for size in random.integers(SMALLEST, LARGEST, rows)]


def write_corpus(folder: Path, *, compressed: bool) -> ColumnReader:
    draft, encodings = Store(folder).draft("corpus", "v1"), tables._encodings
    if compressed:
        tables._encodings = lambda _: {"compression": "zstd"}
    try:
        shards = range(-(-PICTURES // SHARD))
        for shard in shards:
            table = pa.table({"image": pa.array(pictures_of(shard), pa.binary())})
            draft.write_table("images", shard, table, row_group_size=IMAGES_PER_ROW_GROUP)
    finally:
        tables._encodings = encodings
    corpus = draft.commit(fingerprint={}, schema="corpus/1")
    return ColumnReader(corpus, "images", "image", list(shards), cache_bytes=CACHE)


def write_files(folder: Path) -> list[Path]:
    folder.mkdir()
    pictures = (picture for shard in range(-(-PICTURES // SHARD)) for picture in pictures_of(shard))
    paths = []
    for number, picture in enumerate(pictures):
        paths.append(folder / f"{number}.jpg")
        paths[-1].write_bytes(picture)
    return paths


def speed(take: Take, reads: int, seed: int) -> float:
    """Pictures a second."""
    random = np.random.default_rng(seed)
    started = time.perf_counter()
    for _ in range(reads):
        taken = take(random.integers(0, PICTURES, BATCH))
        assert len(taken) == BATCH
    return reads * BATCH / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds: int = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = (write_corpus(Path(folder, name), compressed=name == "zstd") for name in ("plain", "zstd"))
        files = write_files(Path(folder, "files"))
        ways: dict[str, tuple[Take, int]] = {
            "stored as they are": (lambda rows: plain.take(rows, AS_PY), 40),
            "compressed": (lambda rows: packed.take(rows, AS_PY), 2),
            "a file each": (lambda rows: [files[row].read_bytes() for row in rows], 40),
        }
        first = speed(ways["stored as they are"][0], PICTURES // BATCH, 0)
        plain.take(range(PICTURES), AS_PY)  # those that the random pass did not meet
        speed(ways["a file each"][0], PICTURES // BATCH, 0)
        found: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(rounds):
            for name, (take, reads) in ways.items():
                found[name].append(speed(take, reads, turn))
    medians = {name: round(statistics.median(values)) for name, values in found.items()}
    ours = medians["stored as they are"]
    figures: dict[str, Any] = {
        "pictures a second": medians | {"stored as they are, first pass": round(first)},
        "to compressed": round(ours / medians["compressed"], 1),
        "to a file each": round(ours / medians["a file each"], 2),
        "corpus MB": round(PICTURES * (SMALLEST + LARGEST) / 2 / 1e6),
        "cache MB": round(CACHE / 1e6),
        "rounds": rounds,
    }
    record.write("random_reads", "python -m tests.benchmarks.random_reads", figures)


if __name__ == "__main__":
    main()
