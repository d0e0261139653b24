"""Small sources on disk, and an ingest of one from its settings to a committed corpus, in this process."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bcls_core.config import IngestSettings, KarpathyIngest
from bcls_core.data.ingest import determinants_of, plan_ingest
from bcls_core.data.inputs import input_digest
from bcls_core.data.schema import SCHEMA
from bcls_core.store import Artifact, Store, fingerprint


def _encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """`encode(image, format, **options)` -> bytes."""
    return _encode


@pytest.fixture(scope="session")
def noise() -> Callable[..., Image.Image]:
    """`noise(width, height, seed=0)`: an RGB picture that no encoder can make small."""

    def make(width: int, height: int, seed: int = 0) -> Image.Image:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    return make


@pytest.fixture(scope="session")
def jpeg(noise: Callable[..., Image.Image]) -> Callable[..., bytes]:
    """`jpeg(seed)` -> a small JPEG, another one for every seed."""
    return lambda seed=0: _encode(noise(12, 9, seed), "JPEG")


def _run(worker: type, arguments: dict[str, Any], pieces: Sequence[dict[str, Any]], _what: str) -> list[dict[str, Any]]:
    work = worker(**arguments)
    return [json.loads(json.dumps(work(json.loads(json.dumps(piece))))) for piece in pieces]


@pytest.fixture(scope="session")
def run() -> Callable[..., list[dict[str, Any]]]:
    """A plain loop over pieces; pieces and results travel as JSON, as they do between processes."""
    return _run


@dataclass
class Source:
    """A Karpathy dataset in `folder`: what is added is written by `settings`."""

    folder: Path
    images: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, content: bytes | None = None, **entry: Any) -> None:
        """An image with a caption of its own, unless `entry` says otherwise; its file, if there is content."""
        number = len(self.images)
        caption = {"raw": f"caption of image {number}", "sentid": number}
        self.images.append({"filename": name, "split": "train", "sentences": [caption], **entry})
        if content is not None:
            path = self.folder / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def settings(self, **options: Any) -> KarpathyIngest:
        """Writes the annotations and names them; `options` replace the image folder or add to it."""
        annotations = self.folder / "annotations.json"
        annotations.write_text(json.dumps({"images": self.images}))
        (self.folder / "images").mkdir(exist_ok=True)
        visual = {} if "features" in options else {"images": self.folder / "images"}
        return KarpathyIngest(source="karpathy", annotations=annotations, **(visual | options))


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """An empty dataset."""
    folder = tmp_path / "source"
    folder.mkdir()
    return Source(folder)


@pytest.fixture
def new_source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Source]:
    """Makes an empty dataset, another one with every call."""
    return lambda: Source(tmp_path_factory.mktemp("source"))


@pytest.fixture
def ingest(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Artifact]:
    """`ingest(settings, shard_images=4, root=None)` -> the committed corpus, in a store of its own unless named."""

    def make(settings: IngestSettings, shard_images: int = 4, root: Path | str | None = None) -> Artifact:
        inputs = input_digest(settings, _run)
        determinants = determinants_of(settings, inputs)
        store = Store(root or tmp_path_factory.mktemp("store"))
        draft = store.draft("corpus", fingerprint(determinants)[:16], layout={"shard_images": shard_images})
        plan = plan_ingest(settings, shard_images, draft, _run)
        statistics = plan.finish(_run(plan.worker, plan.arguments, plan.pieces, "ingesting"), inputs)
        return draft.commit(fingerprint=determinants, schema=SCHEMA, statistics=statistics)

    return make


@pytest.fixture(scope="session")
def rows_of() -> Callable[[Artifact, str], list[dict[str, Any]]]:
    """`rows_of(corpus, table)` -> all rows as dictionaries, shard by shard."""
    return lambda corpus, table: [row for part in corpus.scan(table) for row in part.to_pylist()]
