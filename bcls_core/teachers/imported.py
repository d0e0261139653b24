"""Image vectors that somebody else computed: `.npz`, `.npy` with a list of ids, or Parquet; unit fp16 rows out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bcls_core.data.features import FeatureFile
from bcls_core.data.rejects import Reason
from bcls_core.errors import CorpusError
from bcls_core.teachers.image import Rows, unit_rows

IMPORTED_VERSION = 1
"""Raised by hand whenever stored rows change."""

_IDS, _FEATURES = "image_id", "features"
_LISTS = (pa.types.is_list, pa.types.is_fixed_size_list, pa.types.is_large_list)
_PICKLE_MARK = b"\x80"
_PICKLED = (
    "{file}: holds pickled Python objects, which can run code when they are read, so it is not. Where it is trusted, "
    "save it again as plain numbers: np.save(FILE, np.stack(np.load(OLD, allow_pickle=True)).astype(np.float32))."
)


class _Table(Protocol):
    """Vectors by image id."""

    def take_as_stored(self, image_ids: Sequence[str]) -> tuple[NDArray[Any], list[Reason | None]]: ...


class ImportedFeatures:
    """Vectors of a file, by image id.

    Attributes:
        fingerprint: all that determines the rows.
    """

    def __init__(self, file: Path, ids: Path | None = None) -> None:
        """
        Args:
            file: `.npz` with `image_id` and `features`, `.npy` (images, dimension), or Parquet with columns `image_id`
                and `features`.
            ids: of an `.npy`: a text file, one id a line.
        Raises:
            CorpusError: a file is missing, or not of that form; says what to do.
        """
        self.fingerprint = imported_fingerprint(file, ids)
        self._file = file
        self._table = _open(file, ids)

    def encode(self, image_ids: Sequence[str]) -> Rows:
        """(images, dimension) rows of unit length.

        Raises:
            CorpusError: an image has no vector; counts them, and names the first.
            ModelError: a vector is not finite, or all zeros; names its image.
        """
        wide, reasons = self._table.take_as_stored(image_ids)
        lacking = [name for name, reason in zip(image_ids, reasons, strict=True) if reason is not None]
        if lacking:
            raise CorpusError(
                f"{self._file}: has no features of {len(lacking)} of {len(image_ids)} images of a shard, first "
                f"{lacking[0]!r}. "
                "Add them, or ingest a corpus without these images."
            )
        way_out = "Correct it there, or leave the image out of the corpus."
        return unit_rows(wide.astype(np.float64), image_ids, f"{self._file} holds", way_out)


def imported_fingerprint(file: Path, ids: Path | None = None) -> dict[str, Any]:
    """All that determines the rows.

    Raises:
        CorpusError: a file is missing.
    """
    files = {"features": file} | ({} if ids is None else {"ids": ids})
    return {"version": IMPORTED_VERSION, **{name: _sha256(path) for name, path in files.items()}}


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror}). Correct the path in the recipe.") from error


def _open(file: Path, ids: Path | None) -> _Table:
    if file.suffix == ".npz":
        return FeatureFile(file)
    if file.suffix == ".npy" and ids is not None:
        return _Vectors(file, _lines(ids), _npy(file))
    if file.suffix in (".parquet", ".pq"):
        return _Vectors(file, *_parquet(file))
    raise CorpusError(
        f"{file}: image features are read from .npz, from .npy with a text file of ids, and from .parquet. "
        "Write it in one of these forms."
    )


class _Vectors:
    """Vectors in memory, or mapped from a file, and the id of each."""

    def __init__(self, file: Path, ids: Sequence[str], vectors: NDArray[Any]) -> None:
        if len(ids) != len(vectors):
            empty = f", {ids.count('')} of them empty" if "" in ids else ""
            raise CorpusError(f"{file}: has {len(vectors)} rows for {len(ids)} ids{empty}. Give one id for each row.")
        self._row_of = {name: row for row, name in enumerate(ids)}
        if len(self._row_of) != len(ids):
            twice = next(name for row, name in enumerate(ids) if self._row_of[name] != row)
            raise CorpusError(f"{file}: image {twice!r} has two rows; each image may have one. Drop one of them.")
        self._vectors = vectors

    def take_as_stored(self, image_ids: Sequence[str]) -> tuple[NDArray[Any], list[Reason | None]]:
        """As of `FeatureFile`."""
        reasons = [None if name in self._row_of else Reason.MISSING_FEATURES for name in image_ids]
        taken = np.zeros((len(image_ids), self._vectors.shape[1]), self._vectors.dtype)
        there = [i for i, reason in enumerate(reasons) if reason is None]
        taken[there] = self._vectors[[self._row_of[image_ids[i]] for i in there]]
        return taken, reasons


def _lines(ids: Path) -> list[str]:
    try:
        text = ids.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{ids}: is not UTF-8 ({error}). Save the ids as UTF-8, one a line.") from error
    return [line.strip() for line in text.removesuffix("\n").split("\n")]  # and not at what else may end a line


def _npy(file: Path) -> NDArray[Any]:
    try:
        vectors = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError, TokenError) as error:
        with file.open("rb") as handle:
            begins = handle.read(1)
        # numpy says of any other file that it may be a pickle.
        if begins == _PICKLE_MARK or "objects" in str(error) or "Object" in str(error):
            raise CorpusError(_PICKLED.format(file=file)) from error
        raise CorpusError(f"{file}: cannot be read as an .npy file ({error}). Write it with np.save.") from error
    if not isinstance(vectors, np.ndarray):
        raise CorpusError(f"{file}: is an archive of arrays. Rename it to .npz, with arrays {_IDS} and {_FEATURES}.")
    return _checked(file, vectors)


def _parquet(file: Path) -> tuple[list[str], NDArray[Any]]:
    try:
        held = pq.read_schema(file).names
        if absent := [name for name in (_IDS, _FEATURES) if name not in held]:
            raise CorpusError(
                f"{file}: has no column {' and no column '.join(absent)}, only {', '.join(held)}. Write image ids as "
                f"{_IDS} and their vectors as {_FEATURES}."
            )
        table = pq.read_table(file, columns=[_IDS, _FEATURES])
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(f"{file}: cannot be read as Parquet ({error}). Write it again.") from error
    column = table[_FEATURES].combine_chunks()
    if not any(test(column.type) for test in _LISTS):
        raise CorpusError(f"{file}: {_FEATURES} is a column of {column.type}. Write lists of floats, one an image.")
    if nulls := column.null_count + table[_IDS].null_count:
        raise CorpusError(f"{file}: {nulls} of its ids and vectors are null. Leave such images out.")
    if not len(column):
        raise CorpusError(f"{file}: holds no rows. Write the vector of each image.")
    each = column.value_lengths().to_pylist()
    lengths = set(each)
    values = column.flatten().to_numpy(zero_copy_only=False)
    if len(lengths) != 1 or len(values) != len(column) * max(lengths):
        usual = Counter(each).most_common(1)[0][0]
        odd = next((str(name) for name, one in zip(table[_IDS].to_pylist(), each, strict=True) if one != usual), "")
        raise CorpusError(
            f"{file}: {_FEATURES} has lists of lengths {sorted(lengths)[:5]}, that of image {odd!r} unlike most. Write "
            "vectors of one length."
        )
    return [str(name) for name in table[_IDS].to_pylist()], _checked(file, values.reshape(len(column), -1))


def _checked(file: Path, vectors: NDArray[Any]) -> NDArray[Any]:
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or 0 in vectors.shape:
        raise CorpusError(
            f"{file}: holds an array of shape {vectors.shape} of {vectors.dtype}, expected (images, dimension) floats. "
            "Write it as np.asarray(vectors, dtype=np.float32)."
        )
    return vectors
