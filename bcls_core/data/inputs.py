"""The digest of everything a corpus is made from: its version must change when any input byte changes.

The annotations and a features file are hashed as files. Referenced images are hashed one by one in pieces, and the
hashes added up: a sum does not care how files are cut into pieces, so the shards of an ingest, which read the same
files later and cut otherwise, can prove that they read what the digest was made of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from bcls_core.config import DemoIngest, IngestSettings, KarpathyIngest
from bcls_core.data.features import FeatureFile
from bcls_core.data.image_folder import read_inside
from bcls_core.data.images import largest_file
from bcls_core.data.karpathy import Annotations, read_karpathy
from bcls_core.data.records import ImageRecord
from bcls_core.data.rejects import Reason
from bcls_core.errors import CorpusError

Piece = dict[str, Any]
Result = dict[str, Any]
Run = Callable[[type, dict[str, Any], list[Piece], str], list[Result]]
"""`run(worker_class, arguments, pieces, what)`: makes `worker_class(**arguments)`, wherever and however often, calls it
with every piece, returns the results in the order of the pieces; `what` is for people."""

FILES_PER_PIECE = 4096

# So wide that nobody can find other files with the same sum.
_SUM_BYTES = 256


class FileSum:
    """An order-free digest of (image id, what was read for it) pairs; sums of parts add up to the sum of all."""

    def __init__(self, total: int = 0) -> None:
        self._total = total

    def add(self, image_id: str, content: bytes | Reason) -> None:
        """Adds one file, or the reason why there was none to read."""
        state = content.value if isinstance(content, Reason) else hashlib.sha256(content).hexdigest()
        term = hashlib.shake_256(f"{image_id}\0{state}".encode()).digest(_SUM_BYTES)
        self._total = (self._total + int.from_bytes(term)) % 2 ** (8 * _SUM_BYTES)

    def hex(self) -> str:
        """The sum itself, to be added to others."""
        return self._total.to_bytes(_SUM_BYTES).hex()

    def digest(self) -> str:
        """A sha256 of the sum, hex."""
        return hashlib.sha256(bytes.fromhex(self.hex())).hexdigest()

    @classmethod
    def of(cls, sums: Iterable[str]) -> FileSum:
        """The sum of sums given as `hex`."""
        return cls(sum(int(part, 16) for part in sums) % 2 ** (8 * _SUM_BYTES))


class HashInputs:
    """Piece worker: `{"piece": "inputs"}` hashes the files a recipe names and counts the images they refer to, a piece
    with "start" and "stop" the images with these numbers."""

    def __init__(self, settings: KarpathyIngest) -> None:
        self._settings = settings

    def __call__(self, piece: Piece) -> Result:
        if self._settings.images is None:
            features = cast("Path", self._settings.features)  # settings have one of the two
            FeatureFile(features)  # raises now what would be raised after hours
            return {"annotations": self._annotations.sha256, "features": _sha256_of(features)}
        if "start" not in piece:
            return {"annotations": self._annotations.sha256, "images": len(self._annotations.records)}
        total = FileSum()
        for record in self._annotations.records[piece["start"] : piece["stop"]]:
            total.add(record.image_id, read_image(self._settings.images, record, self._settings.max_pixels))
        return {"sum": total.hex()}

    @cached_property
    def _annotations(self) -> Annotations:
        return read_karpathy(self._settings.annotations, splits=self._settings.splits)


def input_digest(settings: IngestSettings, run: Run) -> dict[str, Any]:
    """Digests of all input files, hex: of the annotations, and of the images or the features; of a demo none.

    Raises:
        CorpusError: the annotations, the features or the image folder cannot be read.
    """
    if isinstance(settings, DemoIngest):
        return {}
    arguments = {"settings": settings}
    (inputs,) = run(HashInputs, arguments, [{"piece": "inputs"}], "reading annotations")
    if "images" in inputs:
        pieces = [
            {"piece": f"inputs-{start:09d}", "start": start, "stop": start + FILES_PER_PIECE}
            for start in range(0, inputs["images"], FILES_PER_PIECE)
        ]
        sums = run(HashInputs, arguments, pieces, "hashing images")
        inputs["images"] = FileSum.of(result["sum"] for result in sums).digest()
    return inputs


def read_image(folder: Path, record: ImageRecord, max_pixels: int) -> bytes | Reason:
    """The bytes of a record's image file, or why there are none.

    Raises:
        CorpusError: the image folder itself cannot be opened.
        OSError: the machine is in trouble.
    """
    return read_inside(folder, record.paths, max_bytes=largest_file(max_pixels))


def _sha256_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CorpusError(f"{path}: the features cannot be read ({error}). Check ingest.features.") from error
