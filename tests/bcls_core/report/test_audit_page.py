"""The audit's page: escaped, self-contained, and complete whatever was found."""

from __future__ import annotations

import io
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from bcls_core.audit import audit
from bcls_core.data.schema import CAPTIONS, IMAGES, features_schema
from bcls_core.report.audit_page import render_audit_page, share
from bcls_core.report.spread_figure import spread_figure
from bcls_core.store import Artifact, Store

HOSTILE = "<script>alert(1)</script>\"' onerror=x {{ 7*7 }}"


@pytest.mark.parametrize(
    ("part", "total", "shown"),
    [(0, 0, "–"), (0, 10, "0.0 %"), (1, 10, "10.0 %"), (1, 1000, "0.1 %"), (1, 1001, "< 0.1 %"), (7, 7, "100.0 %")],
)
def test_something_is_never_shown_as_nothing(part: int, total: int, shown: str) -> None:
    assert share(part, total) == shown


def test_a_figure_is_the_same_for_the_same_samples_and_may_be_empty() -> None:
    samples = {"random": np.linspace(-1, 1, 50, dtype=np.float32), "none": np.empty(0, dtype=np.float32)}
    first = spread_figure(samples, {"mark": 0.5})
    assert first == spread_figure(samples, {"mark": 0.5})
    assert first.startswith("data:image/svg+xml;base64,")
    assert spread_figure({}, {}).startswith("data:image/svg+xml;base64,")
    same = np.full(3, 0.25, dtype=np.float32)
    assert spread_figure({"one value": same}, {}).startswith("data:")


def corpus(root: Path, splits: tuple[str, ...], *, pictures: bool) -> Artifact:
    """One image for each split, all equal, with one hostile caption and name."""
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), "teal").save(buffer, "PNG")
    data = buffer.getvalue()
    draft = Store(str(root)).draft("corpus", "0" * 16)
    for part, split in enumerate(splits):
        name = f"{HOSTILE}{split}"
        values: list[Any] = [data, 300, 200, sha256(data).hexdigest()] if pictures else [None] * 4
        columns = [[value] for value in (name, split, *values)]
        draft.write_table("images", part, pa.table(columns, schema=IMAGES))
        draft.write_table("captions", part, pa.table([[part], [name], [split], [HOSTILE]], schema=CAPTIONS))
        if not pictures:
            vector = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(2, np.float16)), 2)
            draft.write_table("features", part, pa.table([pa.array([name]), vector], schema=features_schema(2)))
    return draft.commit(fingerprint={}, schema="corpus/1")


@pytest.mark.parametrize("pictures", [True, False])
def test_names_captions_and_notes_are_escaped(tmp_path: Path, pictures: bool) -> None:
    found = audit(corpus(tmp_path, ("train", "val", "test"), pictures=pictures), None)
    assert [leak.images.affected for leak in found.leaks] == [1, 1, 1]
    html = render_audit_page(found, title=HOSTILE, corpus=HOSTILE, labels=None, notes=[HOSTILE])
    assert "<script" not in html
    assert "' onerror" not in html
    assert "{{ 7*7 }}" in html
    assert html.count("<img ") == (12 if pictures else 0)
    assert "no label set" in html
    assert "100.0 %" in html


def test_one_split_has_nothing_to_leak(tmp_path: Path) -> None:
    found = audit(corpus(tmp_path, ("train",), pictures=True), None)
    assert (found.leaks, found.worst_share) == ([], 0.0)
    html = render_audit_page(found, title="t", corpus="c", labels=None)
    assert "nothing can leak" in html
