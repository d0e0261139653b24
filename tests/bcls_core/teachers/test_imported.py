"""Vectors made elsewhere, in each form in which they come, and what is wrong with some of them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bcls_core.errors import CorpusError, ModelError
from bcls_core.teachers.imported import ImportedFeatures, imported_fingerprint

IDS = ["a.jpg", "b.jpg", "c.jpg"]
VECTORS = np.array([[3, 4, 0], [0, 0, 2], [1e5, 0, 0]], np.float32)  # 1e5 is more than float16 holds
EXPECTED = [[0, 0, 1], [0.6, 0.8, 0], [1, 0, 0]]
ORDER = ["b.jpg", "a.jpg", "c.jpg"]


def save(folder: Path, form: str, ids: list[str] = IDS, vectors: Any = VECTORS) -> tuple[Path, Path | None]:
    file = folder / f"vectors.{form.partition(' ')[0]}"
    if form == "npz":
        np.savez(file, image_id=np.array(ids), features=vectors)
    elif form == "npy":
        np.save(file, vectors)
        (folder / "ids.txt").write_text("\n".join(ids) + "\n")
        return file, folder / "ids.txt"
    else:
        kind = pa.list_(pa.float32(), 3) if form == "parquet fixed" else pa.list_(pa.float32())
        pq.write_table(pa.table({"image_id": ids, "features": pa.array(list(vectors), type=kind)}), file)
    return file, None


@pytest.mark.parametrize("form", ["npz", "npy", "parquet", "parquet fixed"])
def test_vectors_are_found_by_id_and_made_unit_rows(tmp_path: Path, form: str) -> None:
    rows = ImportedFeatures(*save(tmp_path, form)).encode(ORDER)
    assert rows.dtype == np.float16
    np.testing.assert_allclose(rows, EXPECTED, atol=1e-3)


def test_ids_may_come_from_other_systems(tmp_path: Path) -> None:
    file, ids = save(tmp_path, "npy")
    assert ids is not None
    ids.write_bytes("\ufeffa.jpg\r\nb\u2028.jpg \r\nc.jpg\r\n".encode())
    np.testing.assert_allclose(ImportedFeatures(file, ids).encode(["b\u2028.jpg", "a.jpg"]), EXPECTED[:2], atol=1e-3)
    large = pa.array(list(VECTORS), type=pa.large_list(pa.float32()))
    pq.write_table(pa.table({"image_id": IDS, "features": large}), tmp_path / "large.parquet")
    np.testing.assert_allclose(ImportedFeatures(tmp_path / "large.parquet").encode(ORDER), EXPECTED, atol=1e-3)


@pytest.mark.parametrize("form", ["npz", "npy", "parquet"])
def test_images_without_vectors_are_counted_and_named(tmp_path: Path, form: str) -> None:
    features = ImportedFeatures(*save(tmp_path, form))
    with pytest.raises(CorpusError, match=r"has no features of 2 of 3 images of a shard, first 'x.jpg'"):
        features.encode(["a.jpg", "x.jpg", "y.jpg"])


@pytest.mark.parametrize("form", ["npz", "npy", "parquet"])
@pytest.mark.parametrize(("value", "what"), [(np.nan, "not finite"), (np.inf, "not finite"), (0.0, "zeros")])
def test_unusable_vectors_are_named(tmp_path: Path, form: str, value: float, what: str) -> None:
    vectors = VECTORS.copy()
    vectors[1] = value
    with pytest.raises(ModelError, match=rf"{what} for image 'b.jpg'\. Correct it there"):
        ImportedFeatures(*save(tmp_path, form, vectors=vectors)).encode(ORDER)


def test_pickled_objects_are_refused_with_the_way_out(tmp_path: Path) -> None:
    file, ids = save(tmp_path, "npy", vectors=np.array([[1.0], [2.0], {}], dtype=object))
    with pytest.raises(CorpusError, match=r"pickled Python objects.*np\.save\(FILE"):
        ImportedFeatures(file, ids)
    file.write_bytes(pickle.dumps({"a.jpg": [1.0]}))
    with pytest.raises(CorpusError, match=r"pickled Python objects.*np\.save\(FILE"):
        ImportedFeatures(file, ids)


@pytest.mark.parametrize(
    ("form", "ids", "vectors", "message"),
    [
        ("npy", IDS[:2], VECTORS, "has 3 rows for 2 ids"),
        ("npy", ["a.jpg", "b.jpg", "a.jpg"], VECTORS, "image 'a.jpg' has two rows"),
        ("parquet", ["a.jpg", "b.jpg", "a.jpg"], VECTORS, "image 'a.jpg' has two rows"),
        ("npy", IDS, VECTORS[0], r"shape \(3,\) of float32, expected \(images, dimension\)"),
        ("npy", IDS, VECTORS.astype(int), "of int64, expected"),
        ("npy", [*IDS, ""], VECTORS, "has 3 rows for 4 ids, 1 of them empty"),
        ("parquet", IDS, [[1.0], [1.0, 2.0], [3.0]], r"lists of lengths \[1, 2\], that of image 'b.jpg' unlike most"),
        ("parquet", [], pa.array([], pa.list_(pa.float32())), "holds no rows"),
        ("parquet", IDS, [[1.0], None, [3.0]], "1 of its ids and vectors are null"),
        ("parquet", ["a.jpg", None, None], VECTORS, "2 of its ids and vectors are null"),
        ("npy", [], VECTORS[:0], r"shape \(0, 3\) of float32, expected .* np.asarray"),
    ],
)
def test_files_of_another_form_are_refused(
    tmp_path: Path, form: str, ids: list[str], vectors: Any, message: str
) -> None:
    with pytest.raises(CorpusError, match=message):
        ImportedFeatures(*save(tmp_path, form, ids, vectors))


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="cannot be read"):
        ImportedFeatures(tmp_path / "absent.npz")
    (tmp_path / "notes.txt").write_text("no vectors")
    with pytest.raises(CorpusError, match=r"read from \.npz"):
        ImportedFeatures(tmp_path / "notes.txt")
    for name in ("broken.npy", "broken.npz", "broken.parquet"):
        (tmp_path / name).write_bytes(b"no vectors")
        (tmp_path / "ids.txt").write_text("a\n")
        with pytest.raises(CorpusError, match="cannot be read"):
            ImportedFeatures(tmp_path / name, tmp_path / "ids.txt")
    pq.write_table(pa.table({"name": IDS}), tmp_path / "other.parquet")
    with pytest.raises(CorpusError, match="has no column image_id and no column features, only name"):
        ImportedFeatures(tmp_path / "other.parquet")
    archive, _ = save(tmp_path, "npz")
    with pytest.raises(CorpusError, match=r"an archive of arrays. Rename it to \.npz"):
        ImportedFeatures(archive.rename(tmp_path / "archive.npy"), tmp_path / "ids.txt")
    file, ids = save(tmp_path, "npy")
    assert ids is not None
    ids.write_bytes("ä\nb\nc\n".encode("latin-1"))
    with pytest.raises(CorpusError, match="is not UTF-8"):
        ImportedFeatures(file, ids)


def test_the_fingerprint_is_that_of_vectors_and_ids(tmp_path: Path) -> None:
    file, ids = save(tmp_path, "npy")
    known = imported_fingerprint(file, ids)
    assert ids is not None
    assert imported_fingerprint(file.rename(tmp_path / "moved.npy"), ids) == known
    ids.write_text("x\nb\nc\n")
    assert imported_fingerprint(tmp_path / "moved.npy", ids) != known
