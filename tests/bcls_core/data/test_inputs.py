from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcls_core.config import DemoIngest
from bcls_core.data import inputs
from bcls_core.data.inputs import FileSum, input_digest
from bcls_core.data.rejects import Reason
from bcls_core.errors import CorpusError

Jpeg = Callable[..., bytes]
Run = Any

files = st.lists(st.tuples(st.text(max_size=3), st.binary(max_size=4)), max_size=8)


def total(pairs: list[tuple[str, bytes]]) -> FileSum:
    result = FileSum()
    for name, content in pairs:
        result.add(name, content)
    return result


@settings(deadline=None)
@given(files, st.randoms(use_true_random=False), st.integers(0, 8))
def test_a_sum_ignores_order_and_cuts(pairs: list[tuple[str, bytes]], random: Any, cut: int) -> None:
    shuffled = random.sample(pairs, len(pairs))

    parts = FileSum.of([total(shuffled[:cut]).hex(), total(shuffled[cut:]).hex()])

    assert parts.hex() == total(pairs).hex()
    assert parts.digest() == total(pairs).digest()


def test_a_sum_tells_names_contents_and_reasons_apart() -> None:
    sums = set()
    for pairs in ([("a", b"x")], [("a", b"y")], [("b", b"x")], [("a", b"x"), ("a", b"x")], []):
        sums.add(total(pairs).digest())
    for reason in (Reason.MISSING, Reason.SYMLINK):
        rejected = FileSum()
        rejected.add("a", reason)
        sums.add(rejected.digest())

    assert len(sums) == 7


def test_any_changed_input_changes_the_digest(source: Any, jpeg: Jpeg, run: Run, tmp_path: Path) -> None:
    for number in range(3):
        source.add(f"{number}.jpg", jpeg(number))
    source.add("missing.jpg")
    before = input_digest(source.settings(), run)
    assert set(before) == {"annotations", "images"}

    image = source.folder / "images" / "1.jpg"
    content = image.read_bytes()
    image.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    flipped = input_digest(source.settings(), run)
    image.write_bytes(content)
    (source.folder / "images" / "missing.jpg").write_bytes(jpeg(9))
    appeared = input_digest(source.settings(), run)
    (source.folder / "images" / "missing.jpg").unlink()
    annotations = source.folder / "annotations.json"
    reordered = source.settings()
    annotations.write_text(annotations.read_text() + " ")

    assert flipped["images"] != before["images"]
    assert appeared["images"] != before["images"]
    assert flipped["annotations"] == before["annotations"]
    assert input_digest(reordered, run) == {**before, "annotations": input_digest(reordered, run)["annotations"]}
    assert input_digest(reordered, run)["annotations"] != before["annotations"]
    source.settings()
    assert input_digest(source.settings(), run) == before


def test_files_that_no_record_names_do_not_matter(source: Any, jpeg: Jpeg, run: Run) -> None:
    source.add("a.jpg", jpeg())
    before = input_digest(source.settings(), run)
    (source.folder / "images" / "other.jpg").write_bytes(b"other")

    assert input_digest(source.settings(), run) == before


def test_the_digest_does_not_depend_on_the_pieces(
    source: Any, jpeg: Jpeg, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(7):
        source.add(f"{number}.jpg", jpeg(number))
    whole = input_digest(source.settings(), run)
    monkeypatch.setattr(inputs, "FILES_PER_PIECE", 2)
    pieces: list[str] = []

    def counted(worker: type, arguments: dict[str, Any], some: list[dict[str, Any]], what: str) -> list[Any]:
        pieces.extend(piece["piece"] for piece in some)
        return run(worker, arguments, some, what)

    assert input_digest(source.settings(), counted) == whole
    assert pieces == ["inputs", "inputs-000000000", "inputs-000000002", "inputs-000000004", "inputs-000000006"]


def test_features_are_hashed_as_a_file(source: Any, run: Run, tmp_path: Path) -> None:
    source.add("a.jpg")
    path = tmp_path / "features.npz"
    np.savez(path, image_id=np.array(["a.jpg"]), features=np.ones((1, 2), np.float16))
    before = input_digest(source.settings(features=path), run)
    np.savez(path, image_id=np.array(["a.jpg"]), features=np.zeros((1, 2), np.float16))

    assert set(before) == {"annotations", "features"}
    assert input_digest(source.settings(features=path), run)["features"] != before["features"]


def test_a_demo_has_no_inputs(run: Run) -> None:
    assert input_digest(DemoIngest(source="demo"), run) == {}


def test_what_cannot_be_read_is_named(source: Any, jpeg: Jpeg, run: Run, tmp_path: Path) -> None:
    source.add("a.jpg", jpeg())

    with pytest.raises(CorpusError, match=r"nowhere: the image folder .*ingest\.images"):
        input_digest(source.settings(images=tmp_path / "nowhere"), run)
    with pytest.raises(CorpusError, match=r"nowhere\.npz: cannot be read as an \.npz file"):
        input_digest(source.settings(features=tmp_path / "nowhere.npz"), run)
