"""The registered model's code: a thin pyfunc around a saved student; MLflow runs this file when it loads the model."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import torch

from bcls_core.students import Student, load_student


class StudentModel(mlflow.pyfunc.PythonModel):
    """Scores (image, caption) rows.

    Input: a table with `image` (encoded picture, as bytes or base64 text) and `caption`.
    Output: the same rows with `score` (higher is closer) and `rank` (1 is the best caption of that image).
    """

    def load_context(self, context: Any) -> None:
        self._student: Student = load_student(Path(context.artifacts["student"])).eval()

    @torch.no_grad()
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:  # noqa: ARG002
        pictures, picture_of = _distinct([_as_bytes(value) for value in model_input["image"]])
        captions, caption_of = _distinct(list(model_input["caption"]))
        preprocessor = self._student.preprocessor
        images = self._student.encode_images(preprocessor.prepare_images(pictures))
        texts = self._student.encode_captions(preprocessor.prepare_captions(captions))
        scores = self._student.score(images, texts)[picture_of, caption_of].tolist()
        table = pd.DataFrame({"picture": picture_of, "score": scores}, index=model_input.index)
        table["rank"] = table.groupby("picture")["score"].rank(method="first", ascending=False).astype("int64")
        return table[["score", "rank"]]


def _distinct(values: list[Any]) -> tuple[list[Any], list[int]]:
    """The distinct values in order of appearance, and for each value its place among them."""
    places: dict[Any, int] = {}
    positions = [places.setdefault(value, len(places)) for value in values]
    return list(places), positions


def _as_bytes(value: bytes | str) -> bytes:
    return base64.b64decode(value) if isinstance(value, str) else bytes(value)


mlflow.models.set_model(StudentModel())
