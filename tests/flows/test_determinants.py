"""What determines an artefact."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bcls_core.config import load_recipe
from flows import recipes
from flows.determinants import GRU_ALGORITHM, of_training, source_digest

STUDENT = """
from bcls_core.students import Student


class Base(Student):
    def encode_images(self, batch):
        ...

    def encode_captions(self, batch):
        ...
"""


def test_a_student_is_the_file_that_defines_it_and_what_it_inherits_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the recipe names it: here by a package that only imports it."""
    package = tmp_path / "students_of_a_test"
    package.mkdir()
    files = {
        "__init__.py": "from students_of_a_test.mine import Mine\n",
        "mine.py": "from students_of_a_test.base import Base\n\n\nclass Mine(Base):\n    pass\n",
        "base.py": STUDENT,
    }
    monkeypatch.syspath_prepend(tmp_path)

    def digest(**changed: str) -> str:
        for name, text in files.items():
            (package / name).write_text(text + changed.get(name.removesuffix(".py"), ""))
        for name in [name for name in sys.modules if name.startswith("students_of_a_test")]:
            monkeypatch.delitem(sys.modules, name)
        return source_digest("students_of_a_test:Mine")

    found = [digest(), digest(__init__="# "), digest(mine="# "), digest(base="# ")]
    assert len(set(found)) == 4
    assert digest() == found[0]


def test_the_arithmetic_of_a_gru_determines_trainings_that_have_one() -> None:
    digest: Any = SimpleNamespace(content_digest="0" * 64)
    plain, read = (
        of_training(load_recipe(recipes.find("demo"), text).train, digest, digest)
        for text in ([], ["train.student.text={gru: 8}"])
    )
    assert "gru" not in plain, "what came later leaves the versions of others alone"
    assert read["gru"] == GRU_ALGORITHM


def test_what_determines_an_artefact_is_found_without_torch() -> None:
    """So that a command whose result is there already answers at once."""
    heavy = ["torch", "transformers", "ray", "mlflow"]
    code = f"import flows.determinants, sys; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
