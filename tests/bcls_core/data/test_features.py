from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcls_core.data.features import FeatureFile, features_table
from bcls_core.data.rejects import Reason
from bcls_core.data.schema import features_schema
from bcls_core.errors import CorpusError

IDS = np.array(["a.jpg", "b.jpg", "ç.jpg"])
MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)

Save = Callable[..., None]


def save(folder: Path, writer: Save = np.savez, **arrays: Any) -> Path:
    path = folder / "features.npz"
    writer(path, **({"image_id": IDS, "features": MATRIX} | arrays))
    return path


def error_of(path: Path) -> str:
    with pytest.raises(CorpusError) as caught:
        FeatureFile(path)
    return str(caught.value)


@pytest.mark.parametrize("writer", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_come_in_the_order_asked_for(tmp_path: Path, writer: Save, dtype: str, order: Any) -> None:
    file = FeatureFile(save(tmp_path, writer, features=np.array(MATRIX, dtype=dtype, order=order)))

    taken, reasons = file.take(["ç.jpg", "a.jpg", "nowhere.jpg", "ç.jpg"])

    assert file.dim == 4
    assert taken.dtype == np.float16
    assert taken.tolist() == [[8, 9, 10, 11], [0, 1, 2, 3], [0, 0, 0, 0], [8, 9, 10, 11]]
    assert reasons == [None, None, Reason.MISSING_FEATURES, None]


def test_uncompressed_features_are_mapped_not_read(tmp_path: Path) -> None:
    assert isinstance(FeatureFile(save(tmp_path))._matrix, np.memmap)
    assert not isinstance(FeatureFile(save(tmp_path, np.savez_compressed))._matrix, np.memmap)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 70_000.0])
def test_rows_that_are_not_finite_in_float16_are_rejected(tmp_path: Path, value: float) -> None:
    matrix = MATRIX.copy()
    matrix[1, 2] = value

    taken, reasons = FeatureFile(save(tmp_path, features=matrix)).take(["a.jpg", "b.jpg"])

    assert reasons == [None, Reason.NON_FINITE_FEATURES]
    assert np.isfinite(taken).all()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"image_id": np.array(["a", "b", "c"], dtype=object)}, "image_id holds Python objects"),
        ({"features": np.array([[1], [2], [3]], dtype=object)}, "features holds Python objects"),
        ({"image_id": np.array([1, 2, 3])}, "image_id is an array of shape (3,) of int64"),
        ({"image_id": np.array([b"a", b"b", b"c"])}, "of |S1"),
        ({"image_id": IDS[:, None]}, "shape (3, 1)"),
        ({"image_id": IDS[:2]}, "image_id has 2 entries, features 3 rows"),
        ({"image_id": np.array(["a", "b", "a"])}, "image_id 'a' stands in rows 0 and 2"),
        (
            {"features": MATRIX.astype(np.longdouble)},
            "of float128, expected a non-empty (N, D) array of float16, float32 or float64",
        ),
        ({"features": MATRIX.astype(np.int32)}, "of int32"),
        ({"features": MATRIX[None]}, "shape (1, 3, 4)"),
        ({"features": MATRIX[:, :0]}, "shape (3, 0)"),
        ({"image_id": IDS[:0], "features": MATRIX[:0]}, "shape (0,)"),
    ],
)
def test_other_arrays_are_refused_with_the_way_out(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    message = error_of(save(tmp_path, **arrays))

    assert words in message
    assert "features.npz" in message
    assert "np.savez(FILE, image_id=np.array(ids, dtype=str)" in message


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return (tmp_path / "executed").touch, ()

    error_of(save(tmp_path, image_id=np.array([Payload()] * 3, dtype=object)))

    assert not (tmp_path / "executed").exists()


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    path = tmp_path / "features.npz"
    np.savez(path, ids=IDS, features=MATRIX)

    assert "there is no array 'image_id', only ids, features" in error_of(path)


def test_files_that_are_no_npz(tmp_path: Path) -> None:
    path = save(tmp_path)
    content = path.read_bytes()
    for damaged in (b"", b"text", content[: len(content) // 2], content[:-30]):
        path.write_bytes(damaged)
        assert "cannot be read as an .npz file" in error_of(path)
    assert "cannot be read as an .npz file" in error_of(tmp_path / "missing.npz")


def test_a_shape_that_the_file_does_not_hold_is_found(tmp_path: Path) -> None:
    path = save(tmp_path)
    for claimed, words in (
        (b"(3, 9)", "features is damaged: its size does not fit its shape (3, 9)"),
        (b"(3, ((", "cannot"),
    ):
        with zipfile.ZipFile(save(tmp_path)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        members["features.npy"] = members["features.npy"].replace(b"(3, 4)", claimed)
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)

        assert words in error_of(path)


def test_damage_behind_the_headers_is_found_when_rows_are_taken(tmp_path: Path) -> None:
    path = save(tmp_path, np.savez_compressed, features=np.random.default_rng(0).random((3, 5_000), np.float32))
    content = bytearray(path.read_bytes())
    content[-2_000] ^= 0xFF
    path.write_bytes(content)

    file = FeatureFile(path)
    with pytest.raises(CorpusError, match="cannot be read as an"):
        file.take(["a.jpg"])


def test_the_table_is_row_aligned_and_typed() -> None:
    table = features_table(["a", "b"], np.array([[1, 2, 3], [4, 5, 6]], np.float16))

    assert table.schema == features_schema(3)
    assert table.to_pylist()[1] == {"image_id": "b", "features": [4.0, 5.0, 6.0]}
    assert features_table([], np.zeros((0, 3), np.float16)).schema == features_schema(3)


def test_real_features(shared_data: Path) -> None:
    file = FeatureFile(shared_data / "data" / "coco_mini" / "mobilenet_v2_pooled.npz")

    taken, reasons = file.take(["COCO_train2014_000000172406.jpg"])

    assert file.dim == 1_280
    assert reasons == [None]
    assert taken.shape == (1, 1_280)
    assert taken.any()
