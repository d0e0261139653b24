"""A small committed corpus: four shards, three splits, captions whose ids do not follow the order of their images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bcls_core.data.schema import CAPTIONS
from bcls_core.store import Artifact, Store

SUBJECTS = ["a man", "two dogs", "a red bus", "the child", "an old woman", "a brown horse"]
ACTIONS = ["runs", "stands", "is waiting", "plays with a ball", "looks at the camera"]
PLACES = ["on the street", "in a park", "near the water", "at night", "on a beach"]


@dataclass(frozen=True)
class Caption:
    id: int
    image: str
    split: str
    text: str


@dataclass(frozen=True)
class CorpusOnDisk:
    root: str
    artifact: Artifact
    captions: list[Caption]

    def of_split(self, split: str) -> list[Caption]:
        """A split's captions in ascending order of ids."""
        return sorted((caption for caption in self.captions if caption.split == split), key=lambda c: c.id)


def make_shards(seed: int) -> list[list[Caption]]:
    """Shards of train, train, val, test; 3 to 5 captions an image; texts repeat; some words occur in val only."""
    dice = np.random.default_rng(seed)
    ids = dice.choice(10_000, size=200, replace=False).tolist()
    shards = []
    for shard, split in enumerate(["train", "train", "val", "test"]):
        captions = []
        for image in range(6):
            for _ in range(dice.integers(3, 6)):
                text = f"{dice.choice(SUBJECTS)} {dice.choice(ACTIONS)} {dice.choice(PLACES)}"
                text += " near a zebra" if split == "val" and image % 2 else ""
                captions.append(Caption(ids.pop(), f"{split}-{shard}-{image}.jpg", split, text))
        shards.append(sorted(captions, key=lambda c: (c.image, c.id)))
    return shards


def write_corpus(root: Path, shards: list[list[Caption]], version: str = "0" * 16) -> CorpusOnDisk:
    store = Store(str(root))
    draft = store.draft("corpus", version)
    for number, captions in enumerate(shards):
        columns = [
            pa.array(np.array([c.id for c in captions], dtype=np.int64)),
            pa.array([c.image for c in captions], type=pa.string()),
            pa.array([c.split for c in captions], type=pa.string()),
            pa.array([c.text for c in captions], type=pa.string()),
        ]
        draft.write_table("captions", number, pa.table(columns, schema=CAPTIONS))
    artifact = draft.commit(fingerprint={"test": True}, schema="corpus/1")
    store.publish(artifact, expected=store.sequence("corpus") or None)
    return CorpusOnDisk(str(root), artifact, [caption for shard in shards for caption in shard])


@pytest.fixture
def make_corpus(tmp_path: Path) -> Callable[[list[list[Caption]]], CorpusOnDisk]:
    return lambda shards: write_corpus(tmp_path / "other", shards)


@pytest.fixture
def corpus(tmp_path: Path) -> CorpusOnDisk:
    return write_corpus(tmp_path / "root", make_shards(seed=3))
