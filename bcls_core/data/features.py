"""Image features made elsewhere: an `.npz` with `image_id` (N,) strings and `features` (N, D) floats, float64 at most.

Files written by `np.savez` are memory-mapped, so a shard reads its own rows only. Those of `np.savez_compressed` cannot
be mapped and are unpacked once per process.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy
from numpy.typing import NDArray

from bcls_core.data.rejects import Reason
from bcls_core.data.schema import features_schema
from bcls_core.errors import CorpusError

_IDS, _FEATURES = "image_id", "features"
_WAY_OUT = "Write it with np.savez(FILE, image_id=np.array(ids, dtype=str), features=matrix.astype(np.float16))."
_LOCAL_HEADER_BYTES = 30
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
    # numpy's parser of array headers
    SyntaxError,
    TokenError,
)


class FeatureFile:
    """An opened and checked features file.

    Attributes:
        dim: numbers per image.
    """

    def __init__(self, path: Path) -> None:
        """Checks headers and reads the ids; the features stay on the disk.

        Raises:
            CorpusError: not such a file, an array is missing or has another type or shape, or an id occurs twice.
        """
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                (n_ids,) = self._header(archive, _IDS, 1, "U", "non-empty (N,) array of strings")[0]
                shape, self._dtype = self._header(
                    archive, _FEATURES, 2, "f", "non-empty (N, D) array of float16, float32 or float64"
                )
                if n_ids != shape[0]:
                    raise self._error(f"{_IDS} has {n_ids} entries, {_FEATURES} {shape[0]} rows")
                with archive.open(f"{_IDS}.npy") as handle:
                    ids = npy.read_array(handle, allow_pickle=False)
        except _DAMAGE as error:
            raise self._unreadable(error) from error
        self._shape = shape
        self.dim = shape[1]
        self._row_of = {image_id: row for row, image_id in enumerate(ids.tolist())}
        if len(self._row_of) != n_ids:
            raise self._error(self._duplicate(ids))

    def take(self, image_ids: Sequence[str]) -> tuple[NDArray[np.float16], list[Reason | None]]:
        """Features of some images.

        Returns:
            (images, dim) float16, zeros where there are none, and per image why there are none (None if there are):
            missing features, or non-finite features (NaN, infinity, or beyond what float16 holds).
        """
        wide, reasons = self.take_as_stored(image_ids)
        with np.errstate(over="ignore"):
            taken = wide.astype(np.float16)
        for i, reason in enumerate(reasons):
            if reason is None and not np.isfinite(taken[i]).all():
                reasons[i], taken[i] = Reason.NON_FINITE_FEATURES, 0
        return taken, reasons

    def take_as_stored(self, image_ids: Sequence[str]) -> tuple[NDArray[Any], list[Reason | None]]:
        """As `take`, in the type of the file; features need not be finite."""
        taken = np.zeros((len(image_ids), self.dim), self._dtype)
        reasons: list[Reason | None] = [None if name in self._row_of else Reason.MISSING_FEATURES for name in image_ids]
        there = [i for i, reason in enumerate(reasons) if reason is None]
        taken[there] = self._matrix[[self._row_of[image_ids[i]] for i in there]]
        return taken, reasons

    @cached_property
    def _matrix(self) -> NDArray[Any]:
        try:
            return self._mapped_or_read()
        except _DAMAGE as error:
            raise self._unreadable(error) from error

    def _mapped_or_read(self) -> NDArray[Any]:
        with zipfile.ZipFile(self.path) as archive, self.path.open("rb") as file:
            member = archive.getinfo(f"{_FEATURES}.npy")
            if member.compress_type != zipfile.ZIP_STORED:
                with archive.open(member) as handle:
                    matrix: NDArray[Any] = npy.read_array(handle, allow_pickle=False)
                return matrix
            file.seek(member.header_offset + 26)
            name_bytes, extra_bytes = np.frombuffer(file.read(4), "<u2")
            file.seek(member.header_offset + _LOCAL_HEADER_BYTES + int(name_bytes) + int(extra_bytes))
            _, fortran_order, _ = _read_header(file)
            order: Any = "F" if fortran_order else "C"
            return np.memmap(self.path, self._dtype, "r", file.tell(), self._shape, order)

    def _header(
        self, archive: zipfile.ZipFile, name: str, dimensions: int, kind: str, expected: str
    ) -> tuple[tuple[int, ...], np.dtype[Any]]:
        if f"{name}.npy" not in archive.namelist():
            found = ", ".join(entry.removesuffix(".npy") for entry in archive.namelist()) or "nothing"
            raise self._error(f"there is no array {name!r}, only {found}")
        member = archive.getinfo(f"{name}.npy")
        with archive.open(member) as handle:
            shape, _, dtype = _read_header(handle)
            header_bytes = handle.tell()
        if dtype.hasobject:
            raise self._error(f"{name} holds Python objects, which are never loaded because that would run code")
        too_wide = kind == "f" and dtype.itemsize > 8
        if len(shape) != dimensions or dtype.kind != kind or too_wide or 0 in shape:
            raise self._error(f"{name} is an array of shape {shape} of {dtype}, expected a {expected}")
        if member.file_size != header_bytes + int(np.prod(shape)) * dtype.itemsize:
            raise self._error(f"{name} is damaged: its size does not fit its shape {shape} of {dtype}")
        return shape, dtype

    def _duplicate(self, ids: NDArray[Any]) -> str:
        names, counts = np.unique(ids, return_counts=True)
        name = str(names[counts > 1][0])
        first, second = np.flatnonzero(ids == name)[:2]
        return f"{_IDS} {name!r} stands in rows {first} and {second}; each image may have one row"

    def _unreadable(self, error: Exception) -> CorpusError:
        return self._error(f"cannot be read as an .npz file ({error})")

    def _error(self, found: str) -> CorpusError:
        return CorpusError(f"{self.path}: {found}. {_WAY_OUT}")


def features_table(image_ids: Sequence[str], features: NDArray[np.float16]) -> pa.Table:
    """The table `features` from (images, dim) values."""
    dim = features.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1), pa.float16()), dim)
    return pa.table([pa.array(image_ids, pa.string()), vectors], schema=features_schema(dim))


def _read_header(handle: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and type from the head of an `.npy` file."""
    version = npy.read_magic(handle)
    if version == (1, 0):
        return npy.read_array_header_1_0(handle)
    if version == (2, 0):
        return npy.read_array_header_2_0(handle)
    raise ValueError(f"its array format {version} is not read here")
