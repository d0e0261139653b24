"""A recipe's layers, and what a wrong one says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bcls_core.config import (
    ClipStudent,
    GivenImageFeatures,
    KarpathyIngest,
    Recipe,
    TwoTowerStudent,
    content_of,
    load_methods,
    load_recipe,
    load_runtime,
)
from bcls_core.errors import ConfigError
from flows import preflight, recipes

DEMO = recipes.find("demo")


def recipe_with(*overrides: str) -> Recipe:
    return load_recipe(DEMO, overrides)


def test_set_wins_over_environment_wins_over_file(monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipe_with()
    assert before.train.batch_size == 128
    monkeypatch.setenv("BCLS__TRAIN__BATCH_SIZE", "64")
    assert recipe_with().train.batch_size == 64
    assert recipe_with("train.batch_size=32").train.batch_size == 32
    assert recipe_with().train.epochs == before.train.epochs, "what no layer above names stays as the file has it"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epoch=3", "train.epoch: unknown key. Did you mean epochs?"),
        ("train.student.image.sizes=3", "train.student.image.sizes: unknown key. Did you mean size?"),
        (
            "train.objective=[{loss: kendall, relevance: cider, related: {}}]",
            "train.objective[0].related: unknown key. It belongs to loss: info-nce, loss: siglip, loss: triplet.",
        ),
        ("train.live_teachers={image: {}}", "image: unknown key. It belongs to kind: two-tower. Did you mean images?"),
        ("train.label={}", "train.label: unknown key. It belongs to the recipe's top level."),
        (
            "train.objective=[{loss: info-nce}, {preset: cusa-released, labels: corpus}]",
            "train.objective[1].labels: unknown key. It belongs to loss: soft-label.",
        ),
        (
            "train.objective=[{preset: cusa-released, alpha: 3}]",
            "train.objective[0]: give alpha and beta, or neither: a backbone's go together",
        ),
        ("ingest.seed=abc", "ingest.seed: Input should be a valid integer"),
        ("label.neighbours=0", "label.neighbours: Input should be greater than 0; found 0"),
        ("train.objective=[{loss: magic}]", "train.objective[0]: Input tag 'magic'"),
        ("train.objective=[{loss: kendall, relevance: mpnet}]", "names 'mpnet', label.measures has cider"),
        (
            "train.objective=[{loss: triplet, related: {relevance: mpnet, above: 0.8}}]",
            "train.objective[0].related.relevance names 'mpnet', label.measures has cider",
        ),
        ("train.batches={kind: related, measure: mpnet}", "train.batches.measure names 'mpnet', label.measures has"),
        ("label.search={kind: ivf}", "measure 'cider' is of kind cider"),
        ("train.objective=[{loss: kendall, relevance: cider, gap: p100}]", "a percentile from p0 to p99"),
        ("train.objective=[{loss: triplet, tau: .inf}]", "train.objective[0].tau"),
        ("train.objective=[{loss: ladder, relevance: cider, thresholds: [.nan]}]", "thresholds[0]"),
        (
            "train.objective=[{loss: soft-label}]",
            "train.objective[0]: image_teacher: there is none (add one to label.image",
        ),
        ("train.objective=[{preset: cusa}]", "preset"),
        ("train.objective=[{preset: cusa-released, alpha: 1}]", "give alpha and beta, or neither"),
        ("label.image_teachers={a: {kind: features, file: v.npy}}", "v.npy holds no image ids"),
        ("label.image_teachers={a: {kind: features, ids: a.txt}}", "ids go with an .npy"),
        ("train.mini_batch_size=1", "train.mini_batch_size: Input should be greater than or equal to 2; found 1"),
        ("train.layer_decay=0", "train.layer_decay"),
        ("train.average=1", "train.average"),
        ("runtime.least_workers=3", "runtime: least_workers=3 are more than workers=2"),
        ("label.frequencies_of=current", "current is another label set once this one is made; name a version"),
        ("surprise.key=1", "surprise: unknown key"),
        ("name=Not A Name", "name: String should match pattern"),
        ("train", "found no SECTION.KEY=VALUE"),
        ("train.epochs=[", "the value is not YAML"),
    ],
)
def test_a_wrong_setting_is_named(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        recipe_with(override)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("{model: google/vit-base-patch16-224}", "a frozen tower, whose features are computed once"),
        ("{features: 1280}", "its image side is features"),
    ],
)
def test_pictures_that_are_not_read_cannot_be_varied(image: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"augment varies pictures") as caught:
        recipe_with(f"train.student.image={image}", "train.augment={crop: 0.5}")
    assert said in str(caught.value)
    assert recipe_with("train.augment={crop: 0.5}").train.augment.crop == 0.5
    assert recipe_with("train.student.image={model: m, trained: true}", "train.augment={flip: true}").train.augment.flip


def test_the_released_weights_of_cusa_are_its_own_times_its_batch() -> None:
    """What InfoNCE's mean over the columns, too, makes of alpha 0.1 and beta 0.5 at a batch of 128."""
    looks = "label.image_teachers={looks: {kind: descriptors}}"
    preset = recipe_with(looks, "train.objective=[{preset: cusa-released}, {loss: kendall, relevance: cider}]")
    spelt_out = recipe_with(
        looks,
        "train.objective=[{loss: info-nce}, {loss: soft-label, weight: 12.8}, "
        "{loss: soft-label, between: [image-image, caption-caption], weight: 64}, {loss: kendall, relevance: cider}]",
    )
    assert preset == spelt_out
    other = recipe_with(looks, "train.objective=[{preset: cusa-released, alpha: 1, beta: 2, batch: 10, mode: dot}]")
    assert [term.weight for term in other.train.objective] == [1, 10, 20]
    sgr = recipe_with(looks, "train.objective=[{preset: cusa-released, backbone: sgr}]")
    assert [term.weight for term in sgr.train.objective] == pytest.approx([1, 76.8, 96])
    saf = recipe_with(looks, "train.objective=[{preset: cusa-released, backbone: saf}]")
    assert [term.weight for term in saf.train.objective] == pytest.approx([1, 128, 96])


@pytest.mark.parametrize(("name", "epochs"), [("coco-clip-cusa", 30), ("flickr30k-clip-cusa", 40)])
def test_the_papers_recipes_have_its_settings(monkeypatch: pytest.MonkeyPatch, name: str, epochs: int) -> None:
    for variable in ("BCLS_COCO", "BCLS_FLICKR30K", "BCLS_CLIP"):
        monkeypatch.setenv(variable, f"/{variable}")
    train = load_recipe(recipes.find(name)).train
    assert (train.batch_size, train.epochs, train.learning_rate, train.final_learning_rate) == (128, epochs, 1e-5, 1e-6)
    assert train.weight_decay == 1e-4
    assert [term.weight for term in train.objective] == [1, 12.8, 64]
    assert isinstance(train.student, ClipStudent)
    assert train.student.model == "/BCLS_CLIP"


def test_towers_that_are_frozen_to_the_end_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"frozen_epochs=3 are all of epochs=3.*trained: false"):
        recipe_with("train.epochs=3", "train.frozen_epochs=3")
    assert recipe_with("train.epochs=3", "train.frozen_epochs=2").train.frozen_epochs == 2


def test_a_seed_has_64_bits() -> None:
    assert recipe_with(f"train.seed={2**64 - 1}").train.seed == 2**64 - 1
    with pytest.raises(ConfigError, match=r"train\.seed"):
        recipe_with(f"train.seed={2**64}")


def test_all_wrong_settings_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match="2 settings are wrong") as caught:
        recipe_with("ingest.seed=abc", "label.neighbours=0")
    assert "ingest.seed" in str(caught.value)
    assert "label.neighbours" in str(caught.value)


def test_a_misspelt_section_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCLS__TRIAN__EPOCHS", "3")
    with pytest.raises(ConfigError, match="BCLS__TRAIN__"):
        recipe_with()


def test_a_key_given_twice_in_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(DEMO.read_text() + "\nname: other\n")
    with pytest.raises(ConfigError, match="'name' is given twice"):
        load_recipe(path)


def test_yaml_cannot_make_objects(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match="not YAML"):
        load_recipe(path)


def test_variables_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCLS_DATA", "/somewhere")
    recipe = load_recipe(recipes.find("coco-mini"))
    assert str(recipe.ingest.images) == "/somewhere/data/coco_mini/images"  # type: ignore[union-attr]
    monkeypatch.delenv("BCLS_DATA")
    with pytest.raises(ConfigError, match=r"\$\{BCLS_DATA\} is not set"):
        load_recipe(recipes.find("coco-mini"))


def test_flickr8k_reads_features_and_is_judged_by_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCLS_DATA", "/somewhere")
    recipe = load_recipe(recipes.find("flickr8k"))
    assert isinstance(recipe.ingest, KarpathyIngest)
    assert isinstance(recipe.train.student, TwoTowerStudent)
    assert (recipe.ingest.images, recipe.train.student.image) == (None, GivenImageFeatures(features=1280))
    judged = recipe.evaluate
    named = [recipe.ingest.annotations, recipe.ingest.features, *judged.ratings, *judged.caption_ratings]
    assert [str(path) for path in named] == [
        "/somewhere/data/flickr8k/dataset_flickr8k.json.gz",
        "/somewhere/data/flickr8k/mobilenet_v2_pooled.npz",
        "/somewhere/data/flickr8k_3k/expert_ratings.tsv",
        "/somewhere/data/flickr8k_3k/crowd_ratings.tsv",
        "/somewhere/data/cxc_sts_val.csv.gz",
    ]
    assert "/somewhere" not in str(content_of(recipe))
    monkeypatch.delenv("BCLS_DATA")
    with pytest.raises(ConfigError, match=r"\$\{BCLS_DATA\} is not set"):
        load_recipe(recipes.find("flickr8k"))


@pytest.mark.needs("data")
def test_every_file_that_flickr8k_names_is_there(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCLS_DATA", str(shared_data))
    recipe = load_recipe(recipes.find("flickr8k"))
    preflight.check_ingest(recipe)
    preflight.check_references(recipe.evaluate)
    assert isinstance(recipe.ingest, KarpathyIngest)
    named = [recipe.ingest.annotations, recipe.ingest.features, *recipe.evaluate.ratings]
    named += recipe.evaluate.caption_ratings
    assert [path for path in named if path is None or not path.is_file()] == []
    assert len(named) == 5


def test_an_unknown_recipe_names_those_shipped() -> None:
    with pytest.raises(
        ConfigError, match="there are: coco-clip-cusa, coco-mini, coco-mini-cusa, demo, flickr30k-clip-cusa, flickr8k"
    ):
        recipes.find("nope")


def test_runtime_and_paths_are_not_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCLS_DATA", "/somewhere")
    here = load_recipe(recipes.find("coco-mini"))
    monkeypatch.setenv("BCLS_DATA", "/elsewhere")
    there = load_recipe(recipes.find("coco-mini"), ["runtime.workers=7", "runtime.root=/tmp/x"])
    assert content_of(here) == content_of(there)
    assert "/somewhere" not in str(content_of(here))
    assert content_of(here) != content_of(load_recipe(recipes.find("coco-mini"), ["train.epochs=7"]))


def test_a_password_is_never_shown() -> None:
    runtime = load_runtime(["runtime.mlflow_password=hunter2"])
    assert "hunter2" not in repr(runtime) + str(runtime) + runtime.model_dump_json()
    assert runtime.mlflow_password is not None
    assert runtime.mlflow_password.get_secret_value() == "hunter2"


def test_a_wrong_password_type_is_not_echoed() -> None:
    with pytest.raises(ConfigError) as caught:
        load_runtime(["runtime.mlflow_password={a: hunter2}"])
    assert "hunter2" not in str(caught.value)


def test_only_runtime_can_be_set_where_there_is_no_recipe() -> None:
    assert load_runtime(["runtime.workers=3"]).workers == 3
    with pytest.raises(ConfigError, match="only runtime settings apply"):
        load_runtime(["train.epochs=3"])


def test_sharded_towers_are_not_compiled() -> None:
    assert recipe_with("runtime.fsdp=true").runtime.fsdp
    with pytest.raises(ConfigError, match="compile=true and fsdp=true do not go together"):
        recipe_with("runtime.fsdp=true", "runtime.compile=true")


TWO = "methods={a: {objective: [{loss: info-nce}]}, b: {objective: [{loss: siglip}], epochs: 9}}"


def test_a_method_stands_in_the_place_of_what_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCLS__TRAIN__EPOCHS", "5")
    found = load_methods(DEMO, [TWO, "train.seed=3"])
    assert list(found) == ["a", "b"]
    assert [method.train.objective[0].loss for method in found.values()] == ["info-nce", "siglip"]
    assert [method.train.epochs for method in found.values()] == [5, 9]
    recipe = recipe_with("train.seed=3")
    for method in found.values():
        assert method.model_copy(update={"train": recipe.train}) == recipe
        assert method.train.seed == 3
        assert content_of(method).keys() == content_of(recipe).keys()


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ("{}", "methods: found 0, two or more are compared"),
        ("{a: {epochs: 3}}", "methods: found 1, two or more are compared"),
        ("{a: {}, b: {epochs: 6}}", "methods a and b train the same"),
        ("{a: {}, b: {epoch: 3}}", "method b: train.epoch: unknown key. Did you mean epochs?"),
        (
            "{a: {}, b: {objective: [{loss: kendall, relevance: mpnet}]}}",
            "method b: recipe: train.objective[0].relevance names",
        ),
        ("{a: {}, b: {epochs: 2, seed: 1}}", "method b: all methods have the same seeds"),
        ("{a: {}, b: 3}", "methods.b: Input should be a valid dictionary"),
        ("{a: {}, b/c: {epochs: 3}}", "methods.b/c"),
    ],
)
def test_wrong_methods_are_named(methods: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_methods(DEMO, [f"methods={methods}"])


def test_the_shipped_methods_are_those_of_the_papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCLS_DATA", str(tmp_path))
    found = load_methods(recipes.find("flickr8k-methods"))
    losses = {name: [term.loss for term in method.train.objective] for name, method in found.items()}
    assert losses == {
        "InfoNCE": ["info-nce"],
        "hardest triplet": ["triplet"],
        "soft-negative triplet": ["triplet"],
        "soft-negative triplet + Kendall": ["triplet", "kendall"],
        "BCLS with SW-HS": ["triplet", "kendall"],
        "CUSA": ["info-nce", "soft-label", "soft-label"],
        "BCLS + CUSA": ["info-nce", "soft-label", "soft-label", "triplet", "kendall"],
    }


def test_methods_may_differ_in_their_models_alone() -> None:
    vit, deit = (
        f"{{student: {{kind: two-tower, image: {{model: /models/{name}}}, text: {{gru: 8}}}}}}"
        for name in ("vit", "deit")
    )
    assert list(load_methods(DEMO, [f"methods={{a: {vit}, b: {deit}}}"])) == ["a", "b"]


def test_what_every_method_has_of_its_own_is_not_set_for_all() -> None:
    with pytest.raises(ConfigError, match=re.escape("--set train.objective=[{loss: siglip}]: each method has its own")):
        load_methods(DEMO, [TWO, "train.objective=[{loss: siglip}]"])
    assert load_methods(DEMO, [TWO, "train.epochs=4"])["a"].train.epochs == 4


def test_methods_are_not_set_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCLS__METHODS__InfoNCE__EPOCHS", "2")
    with pytest.raises(ConfigError, match="BCLS__METHODS__InfoNCE__EPOCHS: methods have names of their own"):
        load_methods(DEMO, [TWO])


def test_content_that_came_later_is_left_out_where_it_is_the_default() -> None:
    assert "image_teachers" not in content_of(recipe_with().label)
    vision = "label.image_teachers={a: {kind: vision, model: m%s}}"
    (without,), (given,) = (
        content_of(recipe_with(vision % more).label)["image_teachers"].values() for more in ("", ", regions: true")
    )
    assert "regions" not in without
    assert given["regions"] is True


def test_what_is_missing_in_a_list_is_not_to_be_set() -> None:
    with pytest.raises(ConfigError, match=r"\[0\]\.related\.above: missing\. Add it to the recipe\.$"):
        recipe_with("train.objective=[{loss: triplet, related: {relevance: cider}}]")
    with pytest.raises(
        ConfigError, match=r"ingest\.annotations: missing\. Add it to the recipe, or give --set ingest\.annotations=…"
    ):
        recipe_with("ingest={source: karpathy}")
