"""Students from recipes, a user's own class among them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bcls_core.config.student import CustomStudent
from bcls_core.errors import ModelError
from bcls_core.students import Student, build_student, load_student, save_student

USERS_FILE = '''
import torch
from bcls_core.students import Student

class MeanColour(Student):
    """Matches the mean colour with the words' embeddings."""

    def __init__(self, settings, preprocessor):
        super().__init__(settings, preprocessor)
        self.words = torch.nn.Embedding(len(preprocessor.captions.tokenizer), 3)

    def encode_images(self, batch):
        return batch["pixel_values"].mean(dim=(2, 3))

    def encode_captions(self, batch):
        return self.words(batch["input_ids"]).mean(dim=1)

class Half(Student):
    def encode_images(self, batch):
        return batch["pixel_values"].mean(dim=(2, 3))

class NoStudent:
    pass
'''


@pytest.fixture
def users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "users_students.py").write_text(USERS_FILE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "users_students"
    sys.modules.pop("users_students", None)


def custom(target: str, **settings: Any) -> CustomStudent:
    return CustomStudent(kind="custom", target=target, settings=settings)


def test_a_users_class_is_built_saved_and_loaded(
    users_module: str, images: list[Image.Image], captions: list[str], tmp_path: Path
) -> None:
    student = build_student(custom(f"{users_module}:MeanColour", size=16, vocabulary=6), iter(captions))
    assert isinstance(student, Student)
    assert student.training
    assert student.prepare_images(images)["pixel_values"].shape == (4, 3, 16, 16)
    assert len(student.preprocessor.captions.tokenizer) == 10
    scores = student.score(
        student.encode_images(student.prepare_images(images)),
        student.encode_captions(student.prepare_captions(captions)),
    )
    assert scores.shape == (4, 4)
    assert not student.image_tower_frozen
    with pytest.raises(ModelError, match="MeanColour has no frozen image tower"):
        student.frozen_image_features(student.prepare_images(images))

    save_student(student, tmp_path / "saved")
    loaded = load_student(tmp_path / "saved")
    assert type(loaded) is type(student)
    assert torch.equal(
        loaded.encode_captions(loaded.prepare_captions(captions)),
        student.words(student.prepare_captions(captions)["input_ids"]).mean(dim=1),
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [("Absent", "Absent is missing there"), ("NoStudent", "is no subclass"), ("Half", "Half lacks encode_captions")],
)
def test_a_class_that_is_no_student_is_refused(users_module: str, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_student(custom(f"{users_module}:{name}"), iter([]))


def test_a_module_that_cannot_be_imported_is_named() -> None:
    with pytest.raises(ModelError, match=r"no module 'nowhere_students'.*\n.*PYTHONPATH"):
        build_student(custom("nowhere_students:Student"), iter([]))
