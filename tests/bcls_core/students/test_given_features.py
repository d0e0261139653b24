"""A student without an image tower: features in, projections alone, and a clear word for pictures."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from bcls_core.config import load_recipe
from bcls_core.config.student import TwoTowerStudent
from bcls_core.errors import ConfigError, ModelError
from bcls_core.students import Student, load_student, save_student
from bcls_core.students.given_features import GivenFeatures
from bcls_core.students.preprocess import NoImages
from flows import recipes

DIM = 5


@pytest.fixture
def student(build: Callable[..., Student]) -> Student:
    return build(image={"features": DIM}).eval()


def some_features(rows: int = 4, dim: int = DIM) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(rows, dim)).astype(np.float32))


def encode(student: Student, features: Tensor) -> Tensor:
    with torch.no_grad():
        return student.encode_images({"features": features})


def test_an_image_is_its_projected_features_at_unit_length(student: Student) -> None:
    features = some_features()
    weights = {name: tensor.double().numpy() for name, tensor in student.image_projection.state_dict().items()}
    projected = features.double().numpy() @ weights["1.weight"].T + weights["1.bias"]
    expected = projected / np.sqrt((projected**2).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(encode(student, features).numpy(), expected, atol=1e-6)


def test_no_image_weights_but_those_of_the_projection(student: Student) -> None:
    names = {name.split(".")[0] for name, _ in student.named_parameters()}
    assert names == {"image_projection", "text_tower", "text_projection"}
    assert not student.image_tower_frozen
    assert student.settings["image"] == {"features": DIM}


def test_half_precision_as_it_lies_in_a_corpus_and_any_number_of_rows(student: Student) -> None:
    features = some_features().half()
    assert torch.equal(encode(student, features), encode(student, features.float()))
    assert encode(student, features.double()).dtype == torch.float32
    assert encode(student, torch.zeros(0, DIM)).shape == (0, 8)
    turned = torch.from_numpy(np.asfortranarray(some_features().numpy()))
    torch.testing.assert_close(encode(student, turned), encode(student, some_features()))


def test_gradients_reach_the_projection(student: Student) -> None:
    student.encode_images({"features": some_features()})[:, 0].sum().backward()
    assert all(parameter.grad is not None for parameter in student.image_projection.parameters())


@pytest.mark.parametrize("projection", ["linear", "mlp"])
def test_it_loads_bit_for_bit(
    build: Callable[..., Student], captions: list[str], projection: str, tmp_path: Path
) -> None:
    student = build(image={"features": DIM}, projection=projection, dropout=0.5).eval()
    for folder in ("first", "second"):
        save_student(student, tmp_path / folder)
    loaded = load_student(tmp_path / "first")
    save_student(loaded, tmp_path / "again")
    assert torch.equal(encode(loaded, some_features()), encode(student, some_features()))
    prepared = loaded.prepare_captions(captions)
    with torch.no_grad():
        assert torch.equal(loaded.encode_captions(prepared), student.encode_captions(prepared))
    files = {path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*") if path.is_file()}
    assert Path("model.safetensors") in files
    assert not any("image" in str(file) for file in files)
    for file in files:
        content = (tmp_path / "first" / file).read_bytes()
        assert content == (tmp_path / "second" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    described = json.loads((tmp_path / "first" / "student.json").read_text())
    assert described["preprocessor"]["images"] == {"kind": "features"}
    assert loaded.preprocessor.images == NoImages()


@pytest.mark.parametrize("shape", [(3, DIM - 1), (3, DIM + 1), (DIM,), (3, 1, DIM), (0, 0)])
def test_features_of_another_length_are_refused(student: Student, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError) as caught:
        encode(student, torch.zeros(shape))
    assert f"image features have shape {shape}, expected (n, {DIM})" in str(caught.value)
    assert "name their length in the recipe" in str(caught.value)


def test_pictures_are_refused_wherever_they_come_in(student: Student, images: list[Image.Image]) -> None:
    for prepare in (student.prepare_images, NoImages()):
        with pytest.raises(ModelError, match="takes image features, found 4 pictures"):
            prepare(images)
    pixels = {"pixel_values": torch.zeros(2, 3, 8, 8)}
    for compute in (student.encode_images, GivenFeatures(DIM)):
        with pytest.raises(
            ModelError, match=r"takes image features, found pixel_values\.\n.*corpus made from features"
        ):
            compute(pixels)
    with pytest.raises(ModelError, match="found nothing"):
        student.encode_images({})


def test_nothing_about_it_is_frozen(student: Student) -> None:
    with pytest.raises(ModelError, match="the image tower is trained"):
        student.frozen_image_features({"features": some_features()})


def test_data_workers_carry_the_preprocessor(student: Student, captions: list[str]) -> None:
    there = pickle.loads(pickle.dumps(student.preprocessor))  # noqa: S301 - made in this line
    assert there.images == NoImages()
    assert torch.equal(there.captions(captions)["input_ids"], student.prepare_captions(captions)["input_ids"])


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("{features: 0}", "Input should be greater than 0; found 0"),
        ("{features: -3}", "Input should be greater than 0; found -3"),
        ("{features: 2.5}", "Input should be a valid integer"),
        ("{features: many}", "Input should be a valid integer"),
        ("{features: null}", "Input should be a valid integer"),
        ("{features: 3, size: 64}", "size: unknown key"),
        ("{features: 3, pooling: mean}", "pooling: unknown key"),
        ("{features: 3, model: ./folder}", "model: unknown key"),
        ("{features: 3, config: {model_type: resnet}}", "train.student.image.features: unknown key"),
        ("{feature: 3}", "train.student.image.feature: unknown key. Did you mean features?"),
    ],
)
def test_a_wrong_image_side_is_refused(image: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipes.find("demo"), [f"train.student.image={image}"])
    assert said in str(caught.value)


@pytest.mark.parametrize(("image", "key"), [("{features: 0}", "features"), ("{features: 3, size: 64}", "size")])
def test_a_wrong_image_side_is_named_as_the_recipe_has_it(image: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"train\.student\.image\.{key}: "):
        load_recipe(recipes.find("demo"), [f"train.student.image={image}"])


def test_captions_are_never_given_as_features() -> None:
    with pytest.raises(ConfigError, match=r"train\.student\.text"):
        load_recipe(recipes.find("demo"), ["train.student.text={features: 3}"])


def test_a_recipe_survives_being_written_and_read(recipe: Callable[..., TwoTowerStudent]) -> None:
    written: dict[str, Any] = recipe(image={"features": DIM}).model_dump(mode="json")
    assert written["image"] == {"features": DIM}
    assert TwoTowerStudent.model_validate(written) == recipe(image={"features": DIM})
    with pytest.raises(ValidationError):
        recipe(image={"features": True, "config": {}})
