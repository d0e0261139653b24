"""Frozen image teachers: pictures in, unit fp16 rows out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from bcls_core.data.pixels import load_all
from bcls_core.errors import ModelError
from bcls_core.teachers.lanes import in_lanes, records_states
from bcls_core.teachers.resolve import fetch_model, model_digest

IMAGE_TEACHER_VERSION = 1
"""Raised by hand whenever stored rows change: preparation, batching, precision, normalisation, rounding."""

BATCHES = {"cpu": 8, "cuda": 64}
"""Pictures encoded at once. A model's last bits can depend on it: part of the fingerprint and no setting."""

Rows = NDArray[np.float16]
Pooling = Literal["auto", "mean", "cls", "pooler"]


class Teacher(Protocol):
    """What makes rows of pictures.

    Attributes:
        dimension: numbers in a row.
    """

    dimension: int

    def encode(self, images: Sequence[bytes], names: Sequence[str]) -> Rows:
        """(images, dimension) rows of unit length.

        Args:
            images: encoded pictures.
            names: what an error calls them.
        """
        ...


class ImageTeacher:
    """Any vision model of `transformers` (DINOv2, ViT, SigLIP's and CLIP's image side, MobileNetV2, ...), frozen.

    No code that comes with a model is run, and weights are read from safetensors only. Pictures are prepared by the
    model's own image processor and encoded in float32.

    Attributes:
        dimension: numbers in a row.
        fingerprint: all that determines the rows.
    """

    def __init__(
        self, model: str, *, revision: str | None = None, pooling: Pooling = "auto", device: str = "cpu"
    ) -> None:
        """
        Args:
            model: hub name, folder, or `package:NAME` for a model carried in an installed package.
            revision: branch, tag or commit of a hub model.
            pooling: `auto` takes the model's own pooled output where it has one, else [CLS], else the mean of its map.
            device: torch device.
        Raises:
            ModelError: the model is missing, has no image processor, is not stored as safetensors, lacks weights, or
                has nothing to pool so; says what to do.
        """
        # Imported here: fingerprints are made before anything heavy is loaded.
        import torch

        from bcls_core.config.student import PretrainedTower
        from bcls_core.students.towers import image_tower

        self.fingerprint = image_teacher_fingerprint(model, revision=revision, pooling=pooling)
        tower, self._prepare = image_tower(PretrainedTower(model=model, revision=revision, pooling=pooling))
        self._name, self._device = model, torch.device(device)
        # Channels last is how convolutions on either device like their maps best.
        self._tower = tower.to(self._device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.dimension = tower.dim

    def encode(self, images: Sequence[bytes], names: Sequence[str]) -> Rows:
        """(images, dimension) rows of unit length, rounded to fp16.

        Raises:
            CorpusError: a picture cannot be decoded; names it.
            ModelError: the model gives NaN, infinity or zero for a picture; names it.
        """
        size = BATCHES.get(self._device.type, BATCHES["cuda"])
        parts = [slice(start, start + size) for start in range(0, len(images), size)]

        def encode(part: slice) -> Rows:
            return self._encode_batch(images[part], names[part])

        one_at_a_time = self._device.type != "cpu" or records_states(self._tower.model)
        rows = [*map(encode, parts)] if one_at_a_time else [*in_lanes(encode, parts)]
        return np.concatenate([np.empty((0, self.dimension), dtype=np.float16), *rows])

    def _encode_batch(self, images: Sequence[bytes], names: Sequence[str]) -> Rows:
        import torch

        of_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)  # a processor may keep the aspect ratio
        prepared = [self._prepare([picture])["pixel_values"] for picture in load_all(images, names)]
        for place, pixels in enumerate(prepared):
            of_shape[tuple(pixels.shape)].append(place)
        wide = np.empty((len(images), self.dimension))
        for places in of_shape.values():
            joint = torch.cat([prepared[place] for place in places])
            with torch.inference_mode():
                pooled = self._tower({"pixel_values": joint.to(self._device, memory_format=torch.channels_last)})
            wide[places] = pooled.double().cpu().numpy()
        return unit_rows(wide, names, f"model {self._name!r} gives")


def image_teacher_fingerprint(model: str, *, revision: str | None = None, pooling: Pooling = "auto") -> dict[str, Any]:
    """All that determines a teacher's rows, read from its files without loading it.

    Raises:
        ModelError: the model is missing.
    """
    return {
        "version": IMAGE_TEACHER_VERSION,
        "files": model_digest(fetch_model(model, revision)),
        "revision": revision,
        "pooling": pooling,
        "batches": dict(BATCHES),
    }


def unit_rows(wide: NDArray[np.float64], names: Sequence[str], who: str) -> Rows:
    """Rows over their norms, rounded to fp16.

    Args:
        wide: (rows, dimension).
        names: of the pictures.
        who: begins the error, such as "model 'dinov2' gives".
    Raises:
        ModelError: a row is not finite, or has no direction.
    """
    peaks = np.abs(wide).max(axis=1, initial=0.0)
    usable = np.isfinite(peaks) & (peaks > 0)
    if not usable.all():
        place = int(np.argmin(usable))
        what = "nothing but zeros" if peaks[place] == 0 else "numbers that are not finite"
        raise ModelError(
            f"{who} {what} for image {names[place]!r}. Drop the image from the corpus, or use another teacher."
        )
    scaled = wide / peaks[:, None]  # so that squares neither overflow nor vanish
    unit: Rows = (scaled / np.linalg.norm(scaled, axis=1, keepdims=True)).astype(np.float16)
    return unit
