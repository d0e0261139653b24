from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bcls_core.errors import StoreError
from bcls_core.store import Artifact, Problem, Store

MakeVersion = Callable[..., Artifact]


@pytest.fixture
def artifact(store: Store, make_version: MakeVersion) -> Artifact:
    return make_version(store, "v1")


def _found(store: Store, artifact: Artifact, *, deep: bool = False) -> list[tuple[str, str]]:
    return [(problem.path, problem.what) for problem in store.verify(artifact, deep=deep)]


def test_nothing_is_wrong_with_what_was_just_written(store: Store, artifact: Artifact) -> None:
    assert store.verify(artifact) == []
    assert store.verify(artifact, deep=True) == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_of_any_file_is_found(disk: Store, make_version: MakeVersion, data: st.DataObject) -> None:
    artifact = disk.find("corpus", "v1") or make_version(disk, "v1")
    name = data.draw(st.sampled_from(sorted(disk.filesystem.files(artifact.folder))))
    path = Path(artifact.url, name)
    original = path.read_bytes()
    place, bit = data.draw(st.integers(0, len(original) - 1)), data.draw(st.integers(0, 7))
    flipped = bytearray(original)
    flipped[place] ^= 1 << bit
    try:
        path.write_bytes(flipped)
        assert [found for found, _ in _found(disk, artifact)] == [name]
    finally:
        path.write_bytes(original)
    assert disk.verify(artifact) == []


def test_each_kind_of_damage_has_its_word(store: Store, artifact: Artifact) -> None:
    files = store.filesystem
    files.remove_file("corpus/v1/captions/part-00001.parquet")
    files.write("corpus/v1/captions/part-00000.parquet", b"short")
    files.write("corpus/v1/truth/scenes.bin", b"trutH")
    files.write("corpus/v1/truth/more", b"?")
    assert _found(store, artifact) == [
        ("captions/part-00000.parquet", "size"),
        ("captions/part-00001.parquet", "missing"),
        ("truth/scenes.bin", "sha256"),
        ("truth/more", "extra"),
    ]
    problem = store.verify(artifact)[2]
    assert isinstance(problem, Problem)
    assert problem.detail.endswith(f"instead of {artifact.manifest.files[2].sha256}")
    assert ("captions", "digest") in _found(store, artifact, deep=True)


def test_a_lost_or_exchanged_manifest_is_found(store: Store, make_version: MakeVersion, artifact: Artifact) -> None:
    store.filesystem.remove_file("corpus/v1/manifest.json")
    assert _found(store, artifact) == [("manifest.json", "missing")]
    store.filesystem.remove_tree("corpus/v1")
    make_version(store, "v1", word="ball")
    assert ("manifest.json", "manifest") in _found(store, artifact)


def test_a_damaged_manifest_is_refused_and_named(store: Store, artifact: Artifact) -> None:
    content = store.filesystem.read("corpus/v1/manifest.json")
    store.filesystem.write("corpus/v1/manifest.json", content.replace(b'"corpus/1"', b'"corpus/2"'))
    assert _found(store, artifact) == [("manifest.json", "manifest")]
    with pytest.raises(StoreError, match=r"manifest.json was changed after it was written"):
        store.resolve("corpus", "v1")


def test_deep_finds_rows_that_disagree_with_a_manifest_that_was_made_to_fit(
    disk: Store, make_version: MakeVersion
) -> None:
    """Bytes and sha256 agree, the rows are others: only decoding tells."""
    artifact = make_version(disk, "v1")
    first, *others = artifact.manifest.files
    path = Path(artifact.url, first.path)
    sink = pa.BufferOutputStream()
    pq.write_table(pq.read_table(path).slice(1), sink)
    path.write_bytes(sink.getvalue())
    sha256 = disk.filesystem.hash(f"corpus/v1/{first.path}")
    entry = first.model_copy(update={"size": path.stat().st_size, "sha256": sha256})
    manifest = artifact.manifest.model_copy(update={"files": [entry, *others]})
    disk.filesystem.write("corpus/v1/manifest.json", manifest.to_bytes())
    forged = Artifact(disk.filesystem, manifest)
    assert _found(disk, forged) == []
    assert _found(disk, forged, deep=True) == [("captions", "digest")]
