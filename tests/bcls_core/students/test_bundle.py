"""A saved student needs nothing but its folder, and equal students are equal bytes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from bcls_core.errors import ModelError
from bcls_core.students import Batch, Preprocessor, Student, load_student, save_student


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def encode(student: Student, images: list[Image.Image], captions: list[str]) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return (
            student.encode_images(student.prepare_images(images)),
            student.encode_captions(student.prepare_captions(captions)),
        )


def test_it_loads_bit_for_bit_without_the_folders_it_came_from(
    build: Callable[..., Student],
    clip_folder: Path,
    bert_folder: Path,
    images: list[Image.Image],
    captions: list[str],
    tmp_path: Path,
) -> None:
    student = build(
        image={"model": str(clip_folder)}, text={"model": str(bert_folder), "trained": True}, projection="mlp"
    ).eval()
    expected = encode(student, images, captions)
    save_student(student, tmp_path / "saved")
    for folder in (clip_folder, bert_folder):
        folder.rename(folder.with_name(f"{folder.name}-renamed"))
    loaded = load_student(tmp_path / "saved")
    for ours, theirs in zip(encode(loaded, images, captions), expected, strict=True):
        assert torch.equal(ours, theirs)
    assert not loaded.training
    assert (loaded.image_tower_frozen, loaded.caption_tower_frozen) == (True, False)
    assert not any(str(tmp_path).encode() in content for content in files_of(tmp_path / "saved").values())


@pytest.mark.slow
def test_a_real_tower_loads_in_a_fresh_process(
    build: Callable[..., Student], shared_data: Path, images: list[Image.Image], captions: list[str], tmp_path: Path
) -> None:
    source = tmp_path / "mobilenet"
    shutil.copytree(shared_data / "models/mobilenet_v2_1.0_224", source)
    student = build(image={"model": str(source)}).eval()
    save_student(student, tmp_path / "saved")
    source.rename(tmp_path / "renamed")
    images[0].save(tmp_path / "image.png")
    program = (
        "import sys, torch, pathlib; from bcls_core.students import load_student\n"
        "folder = pathlib.Path(sys.argv[1]); student = load_student(folder / 'saved')\n"
        "batch = student.prepare_images([(folder / 'image.png').read_bytes()])\n"
        "with torch.no_grad(): print(student.encode_images(batch)[0].tolist())\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, env=environment, check=True
    )
    assert json.loads(done.stdout) == encode(student, images[:1], captions)[0][0].tolist()
    assert done.stderr == ""


def test_equal_students_are_equal_bytes(build: Callable[..., Student], clip_folder: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        save_student(build(image={"model": str(clip_folder)}), tmp_path / name)
    save_student(load_student(tmp_path / "first"), tmp_path / "again")
    first = files_of(tmp_path / "first")
    assert first == files_of(tmp_path / "second") == files_of(tmp_path / "again")
    assert sorted(first) == [
        "image_processor/preprocessor_config.json",
        "model.safetensors",
        "student.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
    ]


def test_what_is_trained_is_trained_again_after_loading(
    build: Callable[..., Student], clip_folder: Path, tmp_path: Path
) -> None:
    student = build(image={"model": str(clip_folder), "trained": True, "pooling": "mean"})
    save_student(student, tmp_path / "saved")
    asked = {name: parameter.requires_grad for name, parameter in student.named_parameters()}
    loaded = load_student(tmp_path / "saved")
    assert {name: parameter.requires_grad for name, parameter in loaded.named_parameters()} == asked
    assert set(asked.values()) == {True, False}


class TiedStudent(Student):
    """Two names for one matrix, and a buffer that is a view of another."""

    def __init__(self, settings: dict[str, object], preprocessor: Preprocessor) -> None:
        super().__init__(settings, preprocessor)
        self.one = torch.nn.Linear(3, 3, bias=False)
        self.two = torch.nn.Linear(3, 3, bias=False)
        self.two.weight = self.one.weight
        self.register_buffer("whole", torch.arange(6.0))
        self.register_buffer("part", self.whole[2:])

    def encode_images(self, batch: Batch) -> Tensor:
        return self.one(batch["pixel_values"].mean(dim=(2, 3)))

    def encode_captions(self, batch: Batch) -> Tensor:
        return self.two(batch["input_ids"][:, :3].float())


def test_tied_weights_are_stored_once_and_tied_again(
    captions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, TiedStudent.__module__, sys.modules[__name__])
    student = TiedStudent({}, TiedStudent.make_preprocessor({}, captions))
    save_student(student, tmp_path)
    assert json.loads((tmp_path / "student.json").read_text())["tied"] == {"two.weight": "one.weight"}
    loaded = load_student(tmp_path)
    assert torch.equal(loaded.one.weight, student.one.weight)
    assert loaded.two.weight is loaded.one.weight
    assert torch.equal(loaded.part, torch.arange(2.0, 6.0))


def test_loading_leaves_the_random_state_alone(build: Callable[..., Student], tmp_path: Path) -> None:
    save_student(build(), tmp_path)
    before = torch.get_rng_state()
    load_student(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_cannot_be_loaded_says_why(build: Callable[..., Student], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no student\.json"):
        load_student(tmp_path)
    save_student(build(), tmp_path)
    description = json.loads((tmp_path / "student.json").read_text())

    def load_with(**changes: object) -> None:
        (tmp_path / "student.json").write_text(json.dumps(description | changes))
        load_student(tmp_path)

    with pytest.raises(ModelError, match=r"has format 2, this version reads up to 1.*\n.*Upgrade"):
        load_with(format=2)
    with pytest.raises(ModelError, match="do not fit the student"):
        load_with(settings={**description["settings"], "dim": 9})
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"model\.safetensors: cannot be read"):
        load_with()
    (tmp_path / "student.json").write_text("{")
    with pytest.raises(ModelError, match="is damaged"):
        load_student(tmp_path)
