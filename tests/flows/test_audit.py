"""The audit of a small dataset of drawn scenes in which leaks were planted."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from bcls_core.audit import AuditSettings
from bcls_core.config import DemoIngest, Recipe, load_recipe
from bcls_core.data.demo import demo_records
from bcls_core.errors import BclsError, ConfigError, UnknownArtifactError
from flows import audit as flow
from flows import ingest, label
from flows.cli import app
from flows.context import Context
from flows.result import Result

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> {{ 7*7 }} $x^2$"
RECIPE = """
name: planted
ingest: {{source: karpathy, annotations: {folder}/annotations.json, images: {folder}/images}}
label:
  measures: {{cider: {{kind: cider}}}}
  neighbours: 8
  gap_pairs: 2000
train:
  student: {{kind: two-tower, image: {{features: 4}}, text: {{model: nowhere}}, dim: 4}}
  objective: [{{loss: triplet}}]
runtime: {{shard_images: 16, backend: local}}
"""
COUNTS = {"train": 40, "val": 14, "test": 14}


class Planted:
    """Drawn scenes as a Karpathy dataset, the commands' context, and what was planted.

    test-00 is train-03 saved at quality 40, test-01 is train-04's file, val-02 is train-05 as PNG (equal pixels), the
    first caption of test-05 is the second of train-07 with other writing, and train-08 and val-03 share a hostile one.
    """

    def __init__(self, folder: Path, *, planted: bool = True) -> None:
        self.folder = folder
        (folder / "images").mkdir(parents=True)
        settings = DemoIngest(source="demo", **COUNTS, size=96, seed=3)
        files: dict[str, bytes] = {}
        texts: dict[str, list[str]] = {}
        for split, count in COUNTS.items():
            images, captions = demo_records(settings, split, 0, count)
            by_image: dict[str, list[str]] = {}
            for row in captions.to_pylist():
                by_image.setdefault(row["image_id"], []).append(row["caption"])
            for number, row in enumerate(images.to_pylist()):
                name = f"{split}-{number:02d}"
                files[name] = row["image"]
                texts[name] = [f"{text} number {split}{number}" for text in by_image[row["image_id"]]]
        if planted:
            files["test-00"] = saved(files["train-03"], "JPEG", quality=40)
            files["test-01"] = files["train-04"]
            files["val-02"] = saved(files["train-05"], "PNG", compress_level=1)
            files["train-05"] = saved(files["train-05"], "PNG", compress_level=9)
            texts["test-05"][0] = "  " + texts["train-07"][1].upper().replace(" ", ", ") + "!!"
            texts["train-08"][0] = texts["val-03"][0] = HOSTILE
        entries = []
        for number, (name, data) in enumerate(files.items()):
            (folder / "images" / f"{name}.img").write_bytes(data)
            sentences = [{"raw": text, "sentid": 10 * number + place} for place, text in enumerate(texts[name])]
            entries.append({"filename": f"{name}.img", "split": name.split("-")[0], "sentences": sentences})
        (folder / "annotations.json").write_text(json.dumps({"images": entries}))
        (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder))
        self.recipe: Recipe = load_recipe(folder / "recipe.yaml")
        self.context = Context(self.recipe.name, self.recipe.runtime, str(folder / "root"))

    def audit(self, settings: AuditSettings | None = None, **options: Any) -> Result:
        return flow.run(self.context, self.recipe, settings or AuditSettings(), **options)


def saved(data: bytes, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(buffer, image_format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    planted = Planted(tmp_path_factory.mktemp("unlabelled") / "data")
    ingest.run(planted.context, planted.recipe)
    return planted


@pytest.fixture(scope="module")
def planted(unlabelled: Planted, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    copy = Planted(tmp_path_factory.mktemp("planted") / "data")
    shutil.rmtree(copy.folder)
    shutil.copytree(unlabelled.folder, copy.folder)
    copy.recipe, root = unlabelled.recipe, str(copy.folder / "root")
    copy.context = Context(copy.recipe.name, copy.recipe.runtime, root)
    label.run(copy.context, copy.recipe)
    return copy


def leak(result: Result, source: str, into: str) -> dict[str, Any]:
    return next(part for part in result.facts["leakage"] if (part["from"], part["into"]) == (source, into))


def image_pairs(part: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(found["image_id"], found["other_image_id"]): found["how"] for found in part["images"]["examples"]}


def test_planted_images_are_found_and_nothing_else(planted: Planted) -> None:
    result = planted.audit()
    test, val = leak(result, "train", "test"), leak(result, "train", "val")
    assert image_pairs(test) == {("test-00.img", "train-03.img"): "hash", ("test-01.img", "train-04.img"): "file"}
    assert image_pairs(val) == {("val-02.img", "train-05.img"): "pixels"}
    assert test["images"]["counts"] == {"file": 1, "pixels": 1, "hash": 2}
    assert val["images"]["counts"] == {"file": 0, "pixels": 1, "hash": 1}
    assert test["images"]["share"] == pytest.approx(2 / 14)
    assert leak(result, "val", "test")["images"]["affected"] == 0


def test_planted_captions_are_found(planted: Planted) -> None:
    result = planted.audit(AuditSettings(near={"cider": 0.99}))
    test, val = leak(result, "train", "test")["captions"], leak(result, "train", "val")["captions"]
    assert test["counts"] == {"equal": 1, "cider": 1}
    assert val["counts"] == {"equal": 1, "cider": 1}
    image = COUNTS["train"] + COUNTS["val"] + 5
    assert test["examples"][0] == {
        "caption_id": 10 * image,
        "other_caption_id": 71,
        "how": "equal",
        "similarity": 1.0,
    }
    assert test["affected"] == 1
    assert test["share"] == 1 / test["total"]


def test_without_labels_it_audits_what_it_can(unlabelled: Planted) -> None:
    result = unlabelled.audit()
    assert result.facts["labels"] is None
    assert result.facts["measures"] == {}
    assert leak(result, "train", "test")["captions"]["counts"] == {"equal": 1}
    assert leak(result, "train", "test")["images"]["affected"] == 2
    assert "bcls label" in result.as_text()
    with pytest.raises(UnknownArtifactError):
        unlabelled.audit(labels="abc")
    with pytest.raises(ConfigError, match="no measure 'cider' in the label set"):
        unlabelled.audit(AuditSettings(near={"cider": 0.5}))


def test_the_gate_rejects_above_the_share_and_not_at_it(planted: Planted) -> None:
    worst = planted.audit().facts["worst_share"]
    assert worst >= 2 / 14
    at = planted.audit(fail_above=worst)
    assert (at.exit_code, at.facts["rejected"]) == (0, False)
    below = planted.audit(fail_above=worst - 1e-9)
    assert (below.exit_code, below.facts["rejected"]) == (3, True)
    assert "rejected" in below.as_text()


def test_labels_of_another_corpus_are_refused(planted: Planted, tmp_path: Path) -> None:
    clean = Planted(tmp_path / "clean", planted=False)
    clean.context = planted.context
    ingest.run(clean.context, clean.recipe)
    version = planted.audit().facts["labels"]
    with pytest.raises(ConfigError, match="was made from corpus"):
        clean.audit(labels=version)


def test_it_writes_the_page_and_nothing_else(planted: Planted, tmp_path: Path) -> None:
    before = tree(planted.folder)
    page = tmp_path / "page.html"
    planted.audit(html=page)
    assert tree(planted.folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert page.read_text().endswith("</html>")


def tree(folder: Path) -> dict[str, int]:
    return {
        str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and "mlflow" not in path.name
    }


@pytest.fixture(scope="module")
def page(planted: Planted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    planted.audit(html=path)
    return path


def test_hostile_captions_are_text_on_the_page(page: Path) -> None:
    html = page.read_text()
    assert "<script" not in html
    assert 'onerror="' not in html
    assert html.count("&lt;script&gt;") >= 2
    assert "{{ 7*7 }}" in html
    sources = re.findall(r'src="([^"]{0,40})', html)
    assert sources
    assert all(source.startswith(("data:image/jpeg;base64,", "data:image/svg+xml;base64,")) for source in sources)
    assert "://" not in re.sub(r'src="[^"]*"', "", html)


@pytest.mark.needs("chromium")
def test_a_browser_shows_it_and_runs_nothing_of_it(page: Path, tmp_path: Path) -> None:
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += [f"--user-data-dir={tmp_path}", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "<title>bcls audit</title>" in dom
    assert dom.count("<img ") == len(re.findall(r'<img (?:class="spread" )?src="data:', dom))


def test_the_command_ends_with_the_gates_code_and_prints_json(planted: Planted) -> None:
    arguments = ["audit", "-c", str(planted.folder / "recipe.yaml"), "--root", planted.context.root, "--json"]
    copy = planted.folder / "recipe.yaml"
    copy.write_text(RECIPE.format(folder=planted.recipe.ingest.annotations.parent))  # type: ignore[union-attr]
    passed = CliRunner().invoke(app, arguments)
    assert passed.exit_code == 0, passed.output
    assert json.loads(passed.stdout)["worst_share"] > 0.01
    failed = CliRunner().invoke(app, [*arguments, "--fail-above", "0.01", "--near", "cider=1", "--examples", "0"])
    assert failed.exit_code == 3
    facts = json.loads(failed.stdout)
    assert facts["rejected"] is True
    assert facts["measures"]["cider"]["near"] == 1
    assert [part["images"]["examples"] for part in facts["leakage"]] == [[], [], []]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--near", "cider"], "expected MEASURE=SIMILARITY"),
        (["--false-negative", "other=0.5"], "no measure 'other'"),
        (["--html", "nowhere/page.html"], "not a file in a folder that exists"),
        (["--labels", "nothing"], "nothing"),
    ],
)
def test_bad_options_are_errors_of_input(planted: Planted, option: list[str], said: str) -> None:
    (planted.folder / "recipe.yaml").write_text(
        RECIPE.format(folder=planted.recipe.ingest.annotations.parent)  # type: ignore[union-attr]
    )
    arguments = ["audit", "-c", str(planted.folder / "recipe.yaml"), "--root", planted.context.root, *option]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, BclsError)
    assert done.exception.exit_code == 2
    assert said in str(done.exception)
