"""Image teachers: rows that are the model's own, whoever shares a batch, and errors that name the picture."""

from __future__ import annotations

import json
import shutil
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModel,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    MobileNetV2Model,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTModel,
)

from bcls_core.errors import CorpusError, ModelError
from bcls_core.students import towers
from bcls_core.teachers import image as module
from bcls_core.teachers.descriptors import Descriptors
from bcls_core.teachers.image import ImageTeacher, image_teacher_fingerprint, unit_rows

SIZE = {"height": 32, "width": 32}
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def encoded(picture: Image.Image, image_format: str = "PNG") -> bytes:
    buffer = BytesIO()
    picture.save(buffer, image_format)
    return buffer.getvalue()


def pictures(count: int = 5) -> list[bytes]:
    dice = np.random.default_rng(0)
    return [encoded(Image.fromarray(dice.integers(0, 256, (40, 48, 3), dtype=np.uint8))) for _ in range(count)]


def names(count: int) -> list[str]:
    return [f"{place}.png" for place in range(count)]


def build(folder: Path, kind: str) -> Path:
    torch.manual_seed(0)
    makers: dict[str, Any] = {
        "vit": lambda: ViTModel(ViTConfig(**SMALL), add_pooling_layer=False),
        "dinov2": lambda: Dinov2Model(Dinov2Config(**SMALL)),
        "clip": lambda: CLIPModel(CLIPConfig(vision_config=SMALL, text_config=TEXT, projection_dim=8)),
        "siglip": lambda: SiglipModel(SiglipConfig(vision_config=SMALL, text_config=TEXT)),
    }
    makers[kind]().save_pretrained(folder)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "size": SIZE,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.4],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("vit"), "vit")


@pytest.mark.parametrize("kind", ["vit", "dinov2", "clip", "siglip"])
def test_any_vision_model_of_transformers_is_a_teacher(tmp_path: Path, kind: str) -> None:
    teacher = ImageTeacher(str(build(tmp_path, kind)))
    rows = teacher.encode(pictures(), names(5))
    assert rows.shape == (5, teacher.dimension)
    assert rows.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(rows.astype(np.float64), axis=1), 1, atol=1e-3)


@pytest.mark.parametrize(
    ("pooling", "pooled"),
    [("auto", lambda states: states[:, 0]), ("cls", lambda states: states[:, 0]), ("mean", lambda s: s.mean(1))],
)
def test_rows_are_what_the_model_says(vit: Path, pooling: Any, pooled: Any) -> None:
    """Against `transformers` itself, one picture at a time."""
    model, processor = (
        ViTModel.from_pretrained(vit, add_pooling_layer=False).eval(),
        AutoImageProcessor.from_pretrained(vit, backend="pil"),
    )
    rows = ImageTeacher(str(vit), pooling=pooling).encode(pictures(), names(5))
    for image, row in zip(pictures(), rows, strict=True):
        inputs = processor(images=Image.open(BytesIO(image)), return_tensors="pt")
        with torch.no_grad():
            expected = pooled(model(**inputs).last_hidden_state)[0].double().numpy()
        np.testing.assert_allclose(row, expected / np.linalg.norm(expected), atol=2e-3)


@pytest.mark.needs("data")
def test_real_weights_know_pictures_by_their_published_features(shared_data: Path) -> None:
    """MobileNetV2's pooled output of COCO pictures, against features made of them with another preparation."""
    folder, images = shared_data / "models" / "mobilenet_v2_1.0_224", shared_data / "data" / "coco_mini"
    with np.load(images / "mobilenet_v2_pooled.npz") as known:
        ids, features = known["image_id"][:40], known["features"][:40].astype(np.float64)
    data = [(images / "images" / str(name)).read_bytes() for name in ids]
    teacher = ImageTeacher(str(folder), pooling="pooler")
    rows = teacher.encode(data, ids.tolist()).astype(np.float64)
    cosines = rows @ (features / np.linalg.norm(features, axis=1, keepdims=True)).T
    assert teacher.dimension == 1280
    np.testing.assert_array_equal(cosines.argmax(1), np.arange(40))


@pytest.mark.parametrize(("kind", "before"), [("vit", 1), ("dinov2", 1), ("clip", 1), ("siglip", 0)])
def test_regions_are_the_cells_of_the_last_map(tmp_path: Path, kind: str, before: int) -> None:
    """Against `transformers` itself: 4 x 4 patches, behind what the model has before them."""
    folder = build(tmp_path, kind)
    teacher = ImageTeacher(str(folder), regions=True)
    rows, regions = teacher.split_regions(teacher.encode(pictures(), names(5)))
    np.testing.assert_array_equal(rows, ImageTeacher(str(folder)).encode(pictures(), names(5)))
    assert regions.shape == (5, 4, 4, 16)
    assert regions.dtype == np.float16
    whole = AutoModel.from_pretrained(folder).eval()
    model = getattr(whole, "vision_model", whole)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    for image, found in zip(pictures(), regions, strict=True):
        inputs = processor(images=Image.open(BytesIO(image)), return_tensors="pt")
        with torch.no_grad():
            states = model(**inputs).last_hidden_state[0].double().numpy()
        expected = states[before:]
        unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(found.reshape(16, 16), unit, atol=2e-3)


@pytest.mark.needs("data")
def test_regions_of_a_map_run_row_by_row(shared_data: Path) -> None:
    """MobileNetV2's 7 x 7 cells, whose mean is its pooled output; what stands left in a picture stands left there."""
    teacher = ImageTeacher(str(shared_data / "models" / "mobilenet_v2_1.0_224"), pooling="mean", regions=True)
    left = np.zeros((224, 224, 3), dtype=np.uint8)
    left[:, :32] = np.random.default_rng(0).integers(0, 256, (224, 32, 3))
    blank, drawn = (encoded(Image.fromarray(picture)) for picture in (np.zeros_like(left), left))
    rows, regions = teacher.split_regions(teacher.encode([blank, drawn], names(2)))
    assert rows.shape == (2, 1280)
    assert regions.shape == (2, 7, 7, 1280)
    moved = np.abs(np.diff(regions.astype(np.float64), axis=0)[0]).sum(2)
    assert (moved[:, 0] > 2 * moved[:, -1]).all()


def test_regions_that_are_no_grid_or_not_finite_are_refused(vit: Path, tmp_path: Path) -> None:
    folder = build(tmp_path / "dinov2", "dinov2")
    processor = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}, "do_resize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    teacher = ImageTeacher(str(folder), regions=True)
    with pytest.raises(ModelError, match=r"gives 5 x 6 regions for image '1\.png', and 8 x 8 for a square"):
        teacher.encode([encoded(Image.new("RGB", shape)) for shape in ((64, 64), (48, 40))], names(2))
    teacher = ImageTeacher(str(vit), regions=True)
    broken = np.ones((2, 4, 4, 16))
    broken[1, 3, 2, 5] = np.inf
    with pytest.raises(ModelError, match=r"regions that are not finite for image '1\.png'"):
        teacher._unit_regions(broken, names(2))
    broken[1, 3, 2] = 0
    assert not teacher._unit_regions(broken, names(2)).reshape(2, 4, 4, 16)[1, 3, 2].any()


@pytest.mark.parametrize(
    ("states", "config", "size"),
    [
        ((1, 35, 8), {"patch_size": 8, "num_detection_tokens": 10}, (32, 48)),
        ((1, 25, 8), {"patch_size": 8, "mask_ratio": 0.0}, (32, 48)),
        ((1, 49, 8), {"patch_size": 4}, (224, 224)),
        ((1, 28, 8), {"patch_size": 8}, (32, 48)),
        ((1, 25, 8), {}, (32, 48)),
        ((1, 7, 7, 64), {}, (224, 224)),
    ],
    ids=["detection tokens", "masked", "merged", "too many", "no patches", "channels last"],
)
def test_what_is_not_known_to_be_a_grid_is_refused(states: Any, config: dict[str, Any], size: Any) -> None:
    with pytest.raises(ModelError, match="not known to be a grid"):
        towers._grid(torch.zeros(states), SimpleNamespace(**config), *size)


def test_registers_and_distillation_stand_before_the_grid() -> None:
    states = torch.arange(30.0).reshape(1, 30, 1)
    config = SimpleNamespace(patch_size=(8, 8), num_register_tokens=4)
    assert towers._grid(states, config, 32, 48)[0, :, :, 0].tolist() == torch.arange(6.0, 30).reshape(4, 6).tolist()
    assert towers._grid(torch.zeros(2, 5, 7, 8), SimpleNamespace(), 224, 250).shape == (2, 7, 8, 5)


def test_a_row_does_not_depend_on_the_pictures_beside_it(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCHES", {"cpu": 2, "cuda": 2})
    teacher, images = ImageTeacher(str(vit)), pictures()
    alone = np.concatenate([teacher.encode([image], ["x"]) for image in images])
    np.testing.assert_allclose(teacher.encode(images, names(5)), alone, atol=1e-3)
    assert teacher.encode([], []).shape == (0, 16)


def test_pictures_of_several_shapes_are_encoded_apart(tmp_path: Path) -> None:
    """A processor may keep the aspect ratio."""
    folder = build(tmp_path, "dinov2")
    processor = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}, "do_resize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    dice = np.random.default_rng(1)
    shapes = [(32, 40, 3), (40, 32, 3), (32, 40, 3)]
    images = [encoded(Image.fromarray(dice.integers(0, 256, shape, dtype=np.uint8))) for shape in shapes]
    teacher = ImageTeacher(str(folder))
    together = teacher.encode(images, names(3))
    alone = np.concatenate([teacher.encode([image], ["x"]) for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-3)


def test_the_fingerprint_is_that_of_weights_preparation_and_pooling(vit: Path, tmp_path: Path) -> None:
    known = image_teacher_fingerprint(str(vit))
    moved = shutil.copytree(vit, tmp_path / "moved")
    assert image_teacher_fingerprint(str(moved)) == known
    assert image_teacher_fingerprint(str(vit), pooling="mean") != known
    preparation = json.loads((moved / "preprocessor_config.json").read_text())
    (moved / "preprocessor_config.json").write_text(json.dumps(preparation | {"image_mean": [0.1, 0.1, 0.1]}))
    assert image_teacher_fingerprint(str(moved)) != known
    weights = load_file(vit / "model.safetensors")
    save_file({name: value + 1e-3 for name, value in weights.items()}, tmp_path / "moved" / "model.safetensors")
    shutil.copy(vit / "preprocessor_config.json", moved)
    assert image_teacher_fingerprint(str(moved)) != known


def test_a_folder_without_weights_is_refused(vit: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(vit, tmp_path / "broken")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="the weights cannot be loaded"):
        ImageTeacher(str(folder))
    (folder / "model.safetensors").write_bytes((vit / "model.safetensors").read_bytes()[:500])
    with pytest.raises(ModelError, match="the weights cannot be loaded"):
        ImageTeacher(str(folder))


def test_a_model_that_gives_nan_is_named_with_its_picture(vit: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(vit, tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    broken = {name: value.fill_(torch.nan) if "layernorm.bias" in name else value for name, value in weights.items()}
    save_file(broken, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"gives numbers that are not finite for image '0\.png'"):
        ImageTeacher(str(folder)).encode(pictures(), names(5))


def test_a_picture_that_cannot_be_decoded_is_named(vit: Path) -> None:
    for teacher in (ImageTeacher(str(vit)), Descriptors()):
        with pytest.raises(CorpusError, match=r"image '1.png' cannot be decoded"):
            teacher.encode([pictures()[0], b"no picture"], names(2))


def test_rows_without_direction_are_refused_and_huge_ones_are_not() -> None:
    with pytest.raises(ModelError, match="gives nothing but zeros for image 'b'"):
        unit_rows(np.array([[1.0, 2.0], [0.0, 0.0]]), ["a", "b"], "it gives")
    rows = unit_rows(np.array([[3e300, 4e300], [3e-300, 4e-300]]), ["a", "b"], "it gives")
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.6, 0.8]], rtol=1e-3)
    assert unit_rows(np.empty((0, 4)), [], "it gives").shape == (0, 4)


def test_descriptors_tell_shapes_and_colours_apart() -> None:
    """A red disc is most like one that is a little darker; a blue square shares neither shape nor colour with it."""

    def drawn(colour: tuple[int, int, int], *, disc: bool) -> bytes:
        grid = np.mgrid[:80, :80] - 40
        inside = (grid**2).sum(0) < 324 if disc else np.abs(grid).max(0) < 16
        return encoded(Image.fromarray(np.where(inside[..., None], np.uint8(colour), np.uint8([90, 160, 90]))))

    red, blue = (200, 30, 30), (30, 30, 200)
    images = [drawn((195, 28, 28), disc=True), drawn(red, disc=False), drawn(blue, disc=True), drawn(blue, disc=False)]
    rows = (
        Descriptors()
        .encode([drawn(red, disc=True), *images, encoded(Image.new("RGB", (64, 64)))], names(6))
        .astype(np.float64)
    )
    assert rows.shape == (6, Descriptors.dimension)
    cosines = rows @ rows.T
    darker, square, blue_disc, blue_square = cosines[0, 1:5]
    assert darker > max(square, blue_disc) + 0.02
    assert min(square, blue_disc) > blue_square + 0.02
    np.testing.assert_allclose(np.diag(cosines)[:5], 1, atol=1e-3)
    assert np.isfinite(cosines).all()  # a picture of one colour has no gradients


def test_mobilenet_is_a_map_that_is_averaged(tmp_path: Path) -> None:
    from transformers import MobileNetV2Config

    torch.manual_seed(0)
    MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.35, image_size=32)).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "ViTImageProcessor", "size": SIZE})
    )
    pooled = ImageTeacher(str(tmp_path)).encode(pictures(), names(5))
    mean = ImageTeacher(str(tmp_path), pooling="mean").encode(pictures(), names(5))
    np.testing.assert_allclose(pooled, mean, atol=1e-3)
