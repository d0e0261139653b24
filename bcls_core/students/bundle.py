"""A student as a folder that needs nothing else: weights, settings, tokenizer, image processor.

`model.safetensors` holds every weight, those of frozen towers too; `student.json` the settings and the towers' whole
configurations; `tokenizer/` and `image_processor/` what prepares the inputs. Equal students give equal bytes. Loading
reads this folder alone: no network, no folder that a tower came from. Of a custom student the class must be importable.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bcls_core.errors import ModelError
from bcls_core.students.base import Student
from bcls_core.students.dual_encoder import DualEncoder
from bcls_core.students.factory import custom_class
from bcls_core.students.preprocess import Preprocessor
from bcls_core.students.two_tower import TwoTower

FORMAT = 1
WEIGHTS_FILE = "model.safetensors"
STUDENT_FILE = "student.json"

_OWN: dict[str, type[Student]] = {"two-tower": TwoTower, "clip": DualEncoder}


def save_student(student: Student, folder: str | Path) -> None:
    """Writes the student into `folder`, which is made if it is not there."""
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    weights, tied = _untied(student.state_dict())
    save_file(weights, root / WEIGHTS_FILE)
    description = {
        "format": FORMAT,
        "student": _kind_of(student),
        "settings": student.settings,
        "preprocessor": student.preprocessor.save(root),
        "tied": tied,
    }
    text = json.dumps(description, indent=1, sort_keys=True, ensure_ascii=False)
    (root / STUDENT_FILE).write_text(text + "\n", "utf-8")


def load_student(folder: str | Path) -> Student:
    """The student that `save_student` wrote, on the CPU, in evaluation mode: its encodings are the same bit for bit.

    Raises:
        ModelError: the folder holds no student, a newer format, or weights that do not fit.
    """
    root = Path(folder)
    description = _read_description(root)
    preprocessor = Preprocessor.load(root, description["preprocessor"])
    kind = description["student"]
    student_class = _OWN.get(kind["kind"]) or custom_class(kind["target"])
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced at once
        student = student_class(description["settings"], preprocessor)
    _load_weights(student, root / WEIGHTS_FILE, description["tied"])
    return student.eval()


def _kind_of(student: Student) -> dict[str, str]:
    for kind, student_class in _OWN.items():
        if type(student) is student_class:
            return {"kind": kind}
    return {"kind": "custom", "target": f"{type(student).__module__}:{type(student).__name__}"}


def _untied(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights with each tensor once, under the first of its names, and the other names -> that name."""
    first_name: dict[tuple[Any, ...], str] = {}
    weights: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    for name, tensor in sorted(state.items()):
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()) if tensor.numel() else (name,)
        if (kept := first_name.setdefault(place, name)) == name:
            # A copy, since safetensors refuses tensors that share memory in other ways (views of one buffer).
            weights[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        else:
            tied[name] = kept
    return weights, tied


def _read_description(root: Path) -> dict[str, Any]:
    try:
        description: dict[str, Any] = json.loads((root / STUDENT_FILE).read_text("utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{root}: holds no {STUDENT_FILE}.\n  Name the folder that a training wrote.") from error
    except json.JSONDecodeError as error:
        raise ModelError(
            f"{root / STUDENT_FILE}: is damaged: {error}.\n  Take the model from the store again."
        ) from error
    if description["format"] > FORMAT:
        raise ModelError(
            f"{root / STUDENT_FILE}: has format {description['format']}, this version reads up to {FORMAT}.\n"
            "  Upgrade bcls to load this model."
        )
    return description


def _load_weights(student: Student, file: Path, tied: dict[str, str]) -> None:
    try:
        weights = load_file(file)
    except (FileNotFoundError, SafetensorError) as error:
        raise ModelError(f"{file}: cannot be read: {error}.\n  Take the model from the store again.") from error
    try:
        student.load_state_dict(weights | {name: weights[kept] for name, kept in tied.items()}, strict=True)
    except (KeyError, RuntimeError) as error:
        raise ModelError(
            f"{file}: the weights do not fit the student that {STUDENT_FILE} describes: {error}\n"
            "  Take the model from the store again; for a custom student, use the class as it was when it was trained."
        ) from error
