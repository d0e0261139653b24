"""From a recipe's `student` section to a student."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from bcls_core.config.student import ClipStudent, CustomStudent, StudentSettings
from bcls_core.errors import ModelError
from bcls_core.students.base import Student
from bcls_core.students.dual_encoder import DualEncoder
from bcls_core.students.two_tower import TwoTower


def build_student(settings: StudentSettings, captions: Iterable[str]) -> Student:
    """A new student, in training mode; weights that no folder gives are drawn from torch's random numbers.

    Args:
        settings: of the recipe.
        captions: the training captions, for a tokenizer to be made from; an iterator will do. Not read where the text
            tower brings its tokenizer.
    Raises:
        ModelError: a model cannot be found, loaded or made, or a custom class is not a student.
    """
    if isinstance(settings, CustomStudent):
        student_class = custom_class(settings.target)
        return student_class(settings.settings, student_class.make_preprocessor(settings.settings, captions)).train()
    if isinstance(settings, ClipStudent):
        return DualEncoder.from_recipe(settings, captions).train()
    return TwoTower.from_recipe(settings, captions).train()


def custom_class(target: str) -> type[Student]:
    """The class that `module:Class` names.

    Raises:
        ModelError: it cannot be imported, is not a subclass of `Student`, or lacks a method that students must have.
    """
    module_name, _, name = target.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), name, None)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"student target {target!r}: no module {error.name!r} can be imported.\n"
            "  Put the file's folder on PYTHONPATH (for a Ray job, into its working directory) or install its package."
        ) from error
    except Exception as error:
        raise ModelError(
            f"student target {target!r}: importing {module_name} failed: {type(error).__name__}: "
            f"{error}\n  Mend the file."
        ) from error
    if not (isinstance(found, type) and issubclass(found, Student)):
        kind = "is missing there" if found is None else "is no subclass of bcls_core.students.Student"
        raise ModelError(f"student target {target!r}: {name} {kind}.\n  Name a class that subclasses it.")
    if lacking := sorted(found.__abstractmethods__):
        raise ModelError(f"student target {target!r}: {name} lacks {' and '.join(lacking)}.\n  Define what is missing.")
    return found
