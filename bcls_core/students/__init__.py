"""What is trained: students, how they are built, and how they are saved so that they load anywhere."""

from bcls_core.students.base import Batch, Student
from bcls_core.students.bundle import load_student, save_student
from bcls_core.students.dual_encoder import DualEncoder
from bcls_core.students.factory import build_student
from bcls_core.students.preprocess import Preprocessor, RawImage
from bcls_core.students.two_tower import TwoTower

__all__ = [
    "Batch",
    "DualEncoder",
    "Preprocessor",
    "RawImage",
    "Student",
    "TwoTower",
    "build_student",
    "load_student",
    "save_student",
]
