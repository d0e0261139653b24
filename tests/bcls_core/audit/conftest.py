"""A small committed corpus with pictures or features, and a label set of one dense measure, both written by hand."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from bcls_core.data.rows import CorpusRows
from bcls_core.data.schema import CAPTIONS, IMAGES, features_schema
from bcls_core.store import Artifact, Store

SHARDS = ("train", "train", "val", "test")
IMAGES_OF_SHARD = 7
DIMENSION = 6
KEPT = 5
"""Neighbours of each caption in the label set."""


@dataclass
class Written:
    """A caption as it was written.

    Attributes:
        row: fp16 representation; few distinct values, so that scores tie.
    """

    id: int
    image: str
    split: str
    text: str
    row: Any


@dataclass
class Ground:
    """What is on disk, and the same in memory for oracles."""

    corpus: Artifact
    labels: Artifact
    captions: list[Written] = field(default_factory=list)

    def of(self, split: str) -> list[Written]:
        """By ascending id."""
        return sorted((caption for caption in self.captions if caption.split == split), key=lambda c: c.id)

    def rows(self, split: str) -> CorpusRows:
        return CorpusRows(self.corpus, split)


def cosine(a: Any, b: Any) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.float32(a @ b / (np.sqrt(a @ a) * np.sqrt(b @ b))))


def noise(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def write_captions(dice: np.random.Generator) -> list[list[Written]]:
    ids = dice.permutation(1000).tolist()
    shards = []
    for shard, split in enumerate(SHARDS):
        captions = []
        for image in range(IMAGES_OF_SHARD):
            for _ in range(dice.integers(1, 5)):
                row = dice.integers(-2, 3, DIMENSION).astype(np.float16)
                row[0] = 3
                text = f"picture {dice.integers(0, 60)}"
                captions.append(Written(ids.pop(), f"{split}-{shard}-{image}.png", split, text, row))
        shards.append(captions)
    return shards


def table(schema: pa.Schema, *columns: Any) -> pa.Table:
    return pa.table([pa.array(column, part.type) for column, part in zip(columns, schema, strict=True)], schema=schema)


def write_corpus(root: Path, shards: list[list[Written]], pictures: dict[str, bytes], features: Any) -> Artifact:
    draft = Store(str(root)).draft("corpus", "0" * 16)
    for number, captions in enumerate(shards):
        names = list(dict.fromkeys(caption.image for caption in captions))
        split = [SHARDS[number]] * len(names)
        if features is None:
            data = [pictures[name] for name in names]
            sizes = [Image.open(io.BytesIO(content)).size for content in data]
            columns = [data, *zip(*sizes, strict=True), [sha256(content).hexdigest() for content in data]]
        else:
            columns = [[None] * len(names)] * 4
            values = np.stack([features[name] for name in names]).astype(np.float16)
            flat = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
            part = pa.table([pa.array(names), flat], schema=features_schema(values.shape[1]))
            draft.write_table("features", number, part, row_group_size=4)
        draft.write_table("images", number, table(IMAGES, names, split, *columns), row_group_size=4)
        written = [[getattr(c, name) for c in captions] for name in ("id", "image", "split", "text")]
        draft.write_table("captions", number, table(CAPTIONS, *written))
    return draft.commit(fingerprint={"of": "corpus"}, schema="corpus/1")


def write_labels(root: Path, shards: list[list[Written]]) -> Artifact:
    everything = [caption for captions in shards for caption in captions]
    draft = Store(str(root)).draft("labels", "1" * 16)
    for number, captions in enumerate(shards):
        ids, splits = [c.id for c in captions], [c.split for c in captions]
        rows = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate([c.row for c in captions])), DIMENSION)
        draft.write_table(
            "caption_embeddings/toy", number, pa.table({"caption_id": ids, "split": splits, "embedding": rows})
        )
        lists, scores = [], []
        for caption in captions:
            found = sorted(
                (-cosine(caption.row, other.row), other.id)
                for other in everything
                if other.split == caption.split and other.image != caption.image
            )[:KEPT]
            lists.append([other for _, other in found])
            scores.append([-score for score, _ in found])
        columns = {
            "kind": ["caption"] * len(ids),
            "measure": ["toy"] * len(ids),
            "id": pa.array(ids, pa.int64()),
            "ids": pa.array(lists, pa.list_(pa.int64())),
            "scores": pa.array(scores, pa.list_(pa.float32())),
        }
        draft.write_table("neighbours/toy", number, pa.table(columns))
    return draft.commit(fingerprint={"of": "labels"}, schema="labels/1")


@pytest.fixture(scope="session")
def make_ground(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ground]:
    """`make_ground(seed=0, change=None, features=None)`: `change(shards, pictures)` plants what is to be found."""

    def make(
        seed: int = 0,
        change: Callable[[list[list[Written]], dict[str, bytes]], None] | None = None,
        features: Callable[[str], Any] | None = None,
    ) -> Ground:
        root = tmp_path_factory.mktemp("ground")
        shards = write_captions(np.random.default_rng(seed))
        names = list(dict.fromkeys(caption.image for captions in shards for caption in captions))
        pictures = {name: encoded(noise(1000 * seed + number)) for number, name in enumerate(names)}
        if change is not None:
            change(shards, pictures)
        vectors = None if features is None else {name: features(name) for name in names}
        corpus = write_corpus(root, shards, pictures, vectors)
        return Ground(corpus, write_labels(root, shards), [c for captions in shards for c in captions])

    return make


@pytest.fixture(scope="session")
def ground(make_ground: Callable[..., Ground]) -> Ground:
    return make_ground()


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image.Image]:
    """`picture(seed, size)`: a smooth coloured picture, another one for every seed."""
    return noise


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """`encode(image, format, **options)` -> bytes."""
    return encoded
