"""Ray and plain processes give the same: labels bit for bit, training to rounding. Two workers, as in the demo."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.bcls_core.teachers.test_image import build


@pytest.mark.slow
def test_ray_equals_plain_processes(
    tmp_path: Path, make_bcls: Callable[..., Any], small_settings: tuple[str, ...]
) -> None:
    plain, on_ray = (make_bcls(tmp_path / name, tmp_path, None) for name in ("plain", "ray"))
    vit = f"sees: {{kind: vision, model: {build(tmp_path / 'vit', 'vit')}, regions: true}}"
    small_settings = (*small_settings, f"label.image_teachers={{looks: {{kind: descriptors}}, {vit}}}")
    expected = plain.json("run", "-c", "demo", "--local", settings=small_settings)
    found = on_ray.json("run", "-c", "demo", settings=small_settings)
    for kind in ("corpus", "labels"):
        assert found[kind]["content_digest"] == expected[kind]["content_digest"], kind
    assert found["training"]["version"] == expected["training"]["version"]
    histories = [json.loads(next(bcls.root.glob("training/*/history.json")).read_text()) for bcls in (plain, on_ray)]
    for one, other in zip(histories[0]["epochs"], histories[1]["epochs"], strict=True):
        assert one.keys() == other.keys()
        for name in one:
            if name.startswith("train/loss"):
                assert other[name] == pytest.approx(one[name], rel=1e-4), name

    sidecar = json.loads(next(on_ray.root.glob("labels/*/sidecar.json")).read_text())
    pieces = find(sidecar, "pieces")
    assert {"piece", "seconds", "pid", "node", "task"} == set(pieces[0])
    assert all(piece["task"] for piece in pieces)
    again = on_ray.json("run", "-c", "demo", settings=small_settings)
    assert [again[kind]["state"] for kind in ("corpus", "labels", "training")] == ["already there"] * 3
    assert again["registered"] == found["registered"]


def find(tree: Any, key: str) -> Any:
    """The value of the first `key` anywhere in a tree of dictionaries."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key:
                return value
            inner = find(value, key)
            if inner is not None:
                return inner
    return None


@pytest.mark.slow
def test_errors_keep_their_kind_and_resources_are_checked_on_ray(bcls: Any, small_settings: tuple[str, ...]) -> None:
    for flow in ("ingest", "label"):
        bcls.run(flow, "-c", "demo", "--local", settings=small_settings)
    process = bcls.start("train", "-c", "demo", settings=(*small_settings, "runtime.workers=99"))
    _, errors = process.communicate()
    assert process.returncode == 2
    assert "runtime.workers=99 needs 49.5 CPUs" in errors
    unknown = "train.student.text={config: {model_type: no-such-model}}"
    process = bcls.start("train", "-c", "demo", settings=(*small_settings, unknown))
    _, errors = process.communicate()
    assert process.returncode == 2, errors[-2000:]
    assert "no-such-model" in errors
    assert "Traceback" not in errors
