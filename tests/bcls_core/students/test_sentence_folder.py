"""Both ways in which sentence-transformers has written down its pooling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bcls_core.errors import ModelError
from bcls_core.students.sentence_folder import SentenceFolder


def write_folder(folder: Path, pooling: dict[str, Any], transformer: str = "") -> Path:
    package = "sentence_transformers.models"
    modules = [
        {"path": transformer, "type": f"{package}.Transformer"},
        {"path": "1_Pooling", "type": f"{package}.Pooling"},
        {"path": "2_Normalize", "type": f"{package}.Normalize"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode": "mean", "embedding_dimension": 8}, "mean"),
        ({"pooling_mode": ["cls"]}, "cls"),
    ],
)
def test_the_pooling_is_read(tmp_path: Path, pooling: dict[str, Any], expected: str) -> None:
    assert SentenceFolder.read(write_folder(tmp_path, pooling)).pooling() == expected


@pytest.mark.parametrize("pooling", [{"pooling_mode": "lasttoken"}, {"pooling_mode": ["mean", "cls"]}])
def test_other_poolings_are_refused(tmp_path: Path, pooling: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"lasttoken|mean and cls"):
        SentenceFolder.read(write_folder(tmp_path, pooling)).pooling()


def test_the_model_may_lie_in_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "0_Transformer").mkdir()
    (tmp_path / "0_Transformer" / "sentence_bert_config.json").write_text('{"max_seq_length": 77}')
    found = SentenceFolder.read(write_folder(tmp_path, {"pooling_mode": "mean"}, transformer="0_Transformer"))
    assert (found.transformer, found.max_tokens) == (tmp_path / "0_Transformer", 77)


def test_a_plain_folder_says_nothing(tmp_path: Path) -> None:
    found = SentenceFolder.read(tmp_path)
    assert (found.transformer, found.pooling(), found.max_tokens) == (tmp_path, "auto", None)
