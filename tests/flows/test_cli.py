"""The command line before any work is done: exit codes, messages, and what is not imported for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bcls_core.config import load_recipe
from bcls_core.errors import ConfigError
from flows import preflight, recipes

PROBE = """
import sys
from flows.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    heavy = sorted({"torch", "ray", "mlflow", "transformers", "pyarrow"} & set(sys.modules))
    print("heavy:", heavy)
    raise
"""


def bcls(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "-c", "demo", "--set", "train.batchsize=3"], "Did you mean batch_size?"),
        (["run", "-c", "nope"], "no such file, and no shipped recipe"),
        (["ingest", "-c", "coco-mini"], "annotations.json does not exist"),
        (
            ["label", "-c", "demo", "--set", "label.measures.m={kind: embedding, model: ./nowhere}"],
            "./nowhere is not a folder",
        ),
        (
            ["train", "-c", "demo", "--set", "train.student.text={model: 'package:no_such_package'}"],
            "pip install no-such-package",
        ),
        (["search", "--model", "models:/demo@champion"], "exactly one of --text and --image"),
        (["demo", "--root", "relative"], "is relative"),
        (["demo", "--root", "/etc/passwd"], "is a file"),
        (["demo", "--set", "registry.alias=latest"], "MLflow keeps for itself"),
        (["demo", "--set", "runtime.mlflow_uri=http://u:hunter2@host"], "must not hold a user or password"),
        (
            ["search", "--model", "m", "--text", "x", "--html", "nowhere/page.html"],
            "not a file in a folder that exists",
        ),
        (["evaluate", "--model", "m", "--split", "nonsense"], "nonsense"),
        (["evaluate", "--model", "m", "--ratings", "nowhere.tsv"], "evaluate.ratings: nowhere.tsv is no file"),
        (
            ["evaluate", "--model", "m", "--ratings", "/etc/passwd", "--ratings", "nowhere.tsv"],
            "evaluate.ratings: nowhere.tsv is no file",
        ),
        (
            ["evaluate", "--model", "m", "--caption-ratings", "/etc"],
            "evaluate.caption_ratings: /etc is no file. Give the path as this machine sees it.",
        ),
        (["evaluate", "--model", "m", "--image-groups", "groups.csv"], "evaluate.image_groups: groups.csv is no file"),
        (["evaluate", "--model", "m", "--coco", "nowhere"], "evaluate.coco: nowhere is no folder"),
        (["evaluate", "--model", "m", "--coco", "/etc/passwd"], "evaluate.coco: /etc/passwd is no folder"),
        (["compare", "m", "n", "--ratings", "nowhere.tsv"], "evaluate.ratings: nowhere.tsv is no file"),
        (["compare", "m", "n", "--caption-ratings", "no.csv"], "evaluate.caption_ratings: no.csv is no file"),
        (["compare", "m", "n", "--image-groups", "groups.csv"], "evaluate.image_groups: groups.csv is no file"),
        (["compare", "m", "n", "--coco", "nowhere"], "evaluate.coco: nowhere is no folder"),
        (["compare", "m"], "compare takes at least two runs"),
        (["run", "-c", "demo", "--set", "evaluate.ratings=[nowhere.tsv]"], "evaluate.ratings: nowhere.tsv is no file"),
        (["run", "-c", "demo", "--set", "evaluate.coco=nowhere"], "evaluate.coco: nowhere is no folder"),
    ],
)
def test_bad_input_exits_2_with_one_message_and_imports_nothing_heavy(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    inside_a_job = {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"} if "relative" in arguments else {}
    done = bcls(
        *arguments,
        cwd=tmp_path,
        BCLS_DATA=str(tmp_path / "absent"),
        PYTHONPATH=str(Path(__file__).parents[2]),
        **inside_a_job,
    )
    assert done.returncode == 2, done.stderr
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr
    assert "heavy: []" in done.stdout
    assert list(tmp_path.iterdir()) == [], "nothing is written"


@pytest.mark.parametrize("flow", ["artifacts", "audit", "demo", "search"])
def test_a_flow_is_a_module_too(flow: str, tmp_path: Path) -> None:
    import os

    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", f"flows.{flow}", "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f" {flow} " in done.stdout


def test_a_folder_that_is_no_whole_model_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    root = tmp_path / "root"
    teachers = f"label.image_teachers={{seen: {{kind: vision, model: {folder}}}}}"
    for add, said in (
        (lambda: None, "label.image_teachers.seen.model: {} holds no config.json"),
        (lambda: (folder / "config.json").write_text("{"), "seen.model: {}/config.json is no JSON"),
        (lambda: (folder / "config.json").write_text("{}"), "seen.model: {} holds no weights"),
    ):
        add()
        done = bcls(
            *("run", "-c", "demo", "--local", "--root", str(root), "--set", teachers),
            cwd=tmp_path,
            PYTHONPATH=str(Path(__file__).parents[2]),
        )
        assert done.returncode == 2, done.stderr
        assert said.format(folder) in done.stderr
        assert not root.exists()


def test_whole_models_of_any_layout_are_taken(tmp_path: Path) -> None:
    """Sentence-transformers keeps weights in folders, or needs no config.json; other folders are nobody's business."""
    (tmp_path / "nested" / "0_Transformer").mkdir(parents=True)
    (tmp_path / "nested" / "modules.json").write_text("[]")
    (tmp_path / "nested" / "0_Transformer" / "model.safetensors").touch()
    (tmp_path / "plain" / "checkpoint-5").mkdir(parents=True)
    (tmp_path / "plain" / "config.json").write_text("{}")
    (tmp_path / "plain" / "checkpoint-5" / "config.json").write_text("cut o")
    (tmp_path / "plain" / "model-00001-of-00002.safetensors").touch()

    def check(folder: str) -> None:
        measures = f"label.measures={{minilm: {{kind: embedding, model: {tmp_path / folder}}}}}"
        objective = "train.objective=[{loss: kendall, relevance: minilm}]"
        preflight.check_models(load_recipe(recipes.find("demo"), [measures, objective]), label=True, train=False)

    for folder, needed in (
        ("nested", "0_Transformer/model.safetensors"),
        ("plain", "model-00001-of-00002.safetensors"),
    ):
        check(folder)
        (tmp_path / folder / needed).unlink()
        with pytest.raises(ConfigError, match="holds no weights"):
            check(folder)
