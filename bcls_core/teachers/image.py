"""Frozen image teachers: pictures in, unit fp16 rows out."""

from __future__ import annotations

import math
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
        dimension: numbers in a row of `encode`.
        fingerprint: all that determines the rows.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        pooling: Pooling = "auto",
        device: str = "cpu",
        regions: bool = False,
    ) -> None:
        """
        Args:
            model: hub name, folder, or `package:NAME` for a model carried in an installed package.
            revision: branch, tag or commit of a hub model.
            pooling: `auto` takes the model's own pooled output where it has one, else [CLS], else the mean of its map.
            device: torch device.
            regions: a row is the pooled vector and, behind it, one of each cell of the last map; see `split_regions`.
        Raises:
            ModelError: the model is missing, has no image processor, is not stored as safetensors, lacks weights, has
                nothing to pool so, or no map; says what to do.
        """
        # Imported here: fingerprints are made before anything heavy is loaded.
        import torch

        from bcls_core.config.student import PretrainedTower
        from bcls_core.students.towers import image_tower

        self.fingerprint = image_teacher_fingerprint(model, revision=revision, pooling=pooling, regions=regions)
        tower, self._prepare = image_tower(PretrainedTower(model=model, revision=revision, pooling=pooling))
        self._name, self._device = model, torch.device(device)
        # Channels last is how convolutions on either device like their maps best.
        self._tower = tower.to(self._device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._grid = self._grid_of_a_square() if regions else (0, 0, 0)
        self.dimension = tower.dim + math.prod(self._grid)

    def _grid_of_a_square(self) -> tuple[int, int, int]:
        """Height, width and channels of a picture's last map."""
        import torch
        from PIL import Image

        pixels = self._prepare([Image.new("RGB", (64, 64))])["pixel_values"]
        with torch.inference_mode():
            _, grid = self._tower.with_regions({"pixel_values": pixels.to(self._device)})
        return grid.shape[1], grid.shape[2], grid.shape[3]

    def encode(self, images: Sequence[bytes], names: Sequence[str]) -> Rows:
        """(images, dimension) rows, each vector in them of unit length, rounded to fp16.

        Raises:
            CorpusError: a picture cannot be decoded; names it.
            ModelError: the model gives NaN or infinity for a picture, or zero for it as a whole, or another grid than
                for others; names it.
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
        pooled = np.empty((len(images), self._tower.dim))
        regions = np.empty((len(images), *self._grid))
        for places in of_shape.values():
            joint = torch.cat([prepared[place] for place in places])
            batch = {"pixel_values": joint.to(self._device, memory_format=torch.channels_last)}
            with torch.inference_mode():
                if not regions.size:
                    pooled[places] = self._tower(batch).double().cpu().numpy()
                    continue
                whole, grid = self._tower.with_regions(batch)
            if grid.shape[1:] != self._grid:
                raise ModelError(
                    f"model {self._name!r} gives {grid.shape[1]} x {grid.shape[2]} regions for image "
                    f"{names[places[0]]!r}, and {self._grid[0]} x {self._grid[1]} for a square: its processor keeps "
                    "the shape of pictures. Use one that does not, or leave regions out."
                )
            pooled[places], regions[places] = whole.double().cpu().numpy(), grid.double().cpu().numpy()
        rows = unit_rows(pooled, names, f"model {self._name!r} gives")
        return np.concatenate([rows, self._unit_regions(regions, names)], axis=1) if regions.size else rows

    def _unit_regions(self, regions: NDArray[np.float64], names: Sequence[str]) -> Rows:
        """(images, numbers) of (images, height, width, channels); a cell of nothing but zeros stays one."""
        flat = regions.reshape(len(names), -1)
        if not np.isfinite(flat).all():
            place = int(np.argmin(np.isfinite(flat).all(axis=1)))
            raise ModelError(
                f"model {self._name!r} gives regions that are not finite for image {names[place]!r}. Drop the image "
                "from the corpus, or use another teacher."
            )
        peaks = np.abs(regions).max(axis=-1, keepdims=True)
        scaled = regions / np.where(peaks, peaks, 1.0)  # so that squares neither overflow nor vanish
        norms = np.linalg.norm(scaled, axis=-1, keepdims=True)
        return (scaled / np.where(norms, norms, 1.0)).astype(np.float16).reshape(flat.shape)

    def split_regions(self, rows: Rows) -> tuple[Rows, Rows]:
        """Rows of `encode` as (images, pooled) and (images, height, width, channels)."""
        own = self._tower.dim
        return rows[:, :own], rows[:, own:].reshape(len(rows), *self._grid)


def image_teacher_fingerprint(
    model: str, *, revision: str | None = None, pooling: Pooling = "auto", regions: bool = False
) -> dict[str, Any]:
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
        **({"regions": True} if regions else {}),
    }


_DROP = "Drop the image from the corpus, or use another teacher."


def unit_rows(wide: NDArray[np.float64], names: Sequence[str], who: str, way_out: str = _DROP) -> Rows:
    """Rows over their norms, rounded to fp16.

    Args:
        wide: (rows, dimension).
        names: of the pictures.
        who: begins the error, such as "model 'dinov2' gives".
        way_out: ends it.
    Raises:
        ModelError: a row is not finite, or has no direction.
    """
    peaks = np.abs(wide).max(axis=1, initial=0.0)
    usable = np.isfinite(peaks) & (peaks > 0)
    if not usable.all():
        place = int(np.argmin(usable))
        what = "nothing but zeros" if peaks[place] == 0 else "numbers that are not finite"
        raise ModelError(f"{who} {what} for image {names[place]!r}. {way_out}")
    scaled = wide / peaks[:, None]  # so that squares neither overflow nor vanish
    unit: Rows = (scaled / np.linalg.norm(scaled, axis=1, keepdims=True)).astype(np.float16)
    return unit
