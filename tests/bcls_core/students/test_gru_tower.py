"""The recurrent text tower: what torch's GRU says of each caption alone, whatever stands beside it in a batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from bcls_core.config.student import GruTextTower, TwoTowerStudent
from bcls_core.errors import ShapeError
from bcls_core.students import TwoTower, build_student, load_student, save_student
from bcls_core.students.gru_tower import GruTower


@pytest.fixture
def student(recipe: Callable[..., TwoTowerStudent], captions: list[str]) -> TwoTower:
    torch.manual_seed(0)
    made = build_student(recipe(text={"gru": 12, "words": 10, "max_tokens": 9}), captions)
    assert isinstance(made, TwoTower)
    return made.eval()


def test_each_caption_is_read_as_if_it_were_alone(student: TwoTower, captions: list[str]) -> None:
    tower = student.text_tower
    assert isinstance(tower, GruTower)
    batch = student.prepare_captions(captions)
    assert len(set(batch["attention_mask"].sum(1).tolist())) > 1
    found = tower(batch)
    assert found.shape == (4, 12)
    for row, ids, mask in zip(found, batch["input_ids"], batch["attention_mask"], strict=True):
        states, _ = tower.gru(tower.words(ids[mask.bool()])[None])
        expected = (states[0, :, :12] + states[0, :, 12:]).mean(0) / 2
        torch.testing.assert_close(row, expected)
    wider = {name: torch.nn.functional.pad(value, (0, 5)) for name, value in batch.items()}
    torch.testing.assert_close(tower(wider), found)


@pytest.mark.parametrize("lengths", [[4, 9, 1, 9, 2], [3], [5, 5]])
def test_processors_get_the_values_and_gradients_of_torch_s_own_gru(lengths: list[int]) -> None:
    torch.manual_seed(1)
    tower = GruTower(50, 6, 7).double()
    batch = {
        "input_ids": torch.randint(1, 50, (len(lengths), 9)),
        "attention_mask": (torch.arange(9) < torch.tensor(lengths)[:, None]).long(),
    }
    batch["input_ids"] *= batch["attention_mask"]
    towards = torch.randn(len(lengths), 7, dtype=torch.float64)
    found: dict[str, list[torch.Tensor]] = {}
    for way in ("_in_steps", "_at_once"):
        tower.zero_grad()
        encoded = getattr(tower, way)(batch["input_ids"], batch["attention_mask"].sum(1))
        (encoded * towards).sum().backward()
        gradients = {name: parameter.grad for name, parameter in tower.named_parameters()}
        assert len(gradients) == 9
        found[way] = [encoded.double(), *(gradient.clone() for gradient in gradients.values() if gradient is not None)]
        assert len(found[way]) == 10
    torch.testing.assert_close(found["_in_steps"], found["_at_once"], atol=1e-6, rtol=1e-6)


def test_a_caption_without_tokens_is_refused() -> None:
    tower = GruTower(50, 6, 7)
    mask = torch.tensor([[1, 1], [0, 0]])
    with pytest.raises(ShapeError, match="caption 1 of the batch has no tokens"):
        tower({"input_ids": mask, "attention_mask": mask})


def test_autocast_leaves_it_in_single_precision(student: TwoTower, captions: list[str]) -> None:
    tokens = student.prepare_captions(captions)
    expected = student.text_tower(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        found = student.text_tower(tokens)
        found.sum().backward()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)


def test_it_comes_back_from_disk_and_all_of_it_is_trained(
    student: TwoTower, captions: list[str], images: list[Image.Image], tmp_path: Path
) -> None:
    tokens = student.prepare_captions(captions)
    encoded = student.train().encode_captions(tokens)
    encoded.sum().backward()
    assert all(parameter.grad is not None for parameter in student.text_tower.parameters())
    save_student(student.eval(), tmp_path)
    again = load_student(tmp_path)
    with torch.no_grad():
        assert torch.equal(again.encode_captions(again.prepare_captions(captions)), student.encode_captions(tokens))
        assert again.encode_images(again.prepare_images(images)).shape == (4, 8)


@pytest.mark.parametrize("text", [{"gru": 0}, {"gru": 4, "pooling": "mean"}, {"gru": 4, "words": -1}])
def test_unusable_settings_are_refused(text: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GruTextTower.model_validate(text)
