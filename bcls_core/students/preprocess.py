"""From encoded images and caption texts to the tensors a student takes; without weights, so data workers carry it."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer

from bcls_core.data.pixels import UNREADABLE, load_rgb
from bcls_core.errors import CorpusError, ModelError
from bcls_core.students.loading import first_line

IMAGE_FOLDER = "image_processor"
TOKENIZER_FOLDER = "tokenizer"

RawImage = bytes | Image.Image


def decode(image: RawImage) -> Image.Image:
    """An upright RGB image: encoded bytes as ingest decodes them, an opened image converted.

    Raises:
        OSError: the bytes are not an image, or are cut off.
    """
    return load_rgb(image) if isinstance(image, bytes) else ImageOps.exif_transpose(image).convert("RGB")


def _decode_all(images: Sequence[RawImage]) -> list[Image.Image]:
    decoded = []
    for index, image in enumerate(images):
        try:
            decoded.append(decode(image))
        except UNREADABLE as error:
            raise CorpusError(
                f"image {index} of {len(images)}: cannot be decoded: {error}\n  Check the file."
            ) from error
    return decoded


class ImagePreprocessor(Protocol):
    """Callable: images -> {"pixel_values": (n, 3, height, width) float32}."""

    def __call__(self, images: Sequence[RawImage]) -> dict[str, Tensor]: ...

    def save(self, folder: Path) -> dict[str, Any]:
        """Writes what it needs below `folder`; returns the JSON-able rest."""
        ...


@dataclass(frozen=True)
class SquareImages:
    """Resizes to a square (the aspect ratio is not kept) and scales values to [-1, 1]: mean .5, deviation .5.

    Attributes:
        size: side in pixels.
    """

    size: int

    def __call__(self, images: Sequence[RawImage]) -> dict[str, Tensor]:
        pixels = np.empty((len(images), self.size, self.size, 3), dtype=np.uint8)
        for row, image in enumerate(_decode_all(images)):
            side = (self.size, self.size)
            pixels[row] = np.asarray(image if image.size == side else image.resize(side, Image.Resampling.BILINEAR))
        channels_first = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        scaled = channels_first.to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1.0)
        return {"pixel_values": scaled}

    def save(self, folder: Path) -> dict[str, Any]:  # noqa: ARG002 - part of the protocol; needs no file
        return {"kind": "square", "size": self.size}


@dataclass(frozen=True)
class NoImages:
    """Prepares no picture: the student takes the features that its corpus was made from."""

    def __call__(self, images: Sequence[RawImage]) -> dict[str, Tensor]:
        """Raises ModelError."""
        raise ModelError(
            f"this student takes image features, found {len(images)} pictures.\n"
            "  Read a corpus made from features, or train a student with an image tower."
        )

    def save(self, folder: Path) -> dict[str, Any]:  # noqa: ARG002 - part of the protocol; needs no file
        return {"kind": "features"}


def _lacking(folder: Path) -> str:
    """What an image tower's folder should hold, and does not."""
    for name in ("config.json", "preprocessor_config.json"):
        try:
            json.loads((folder / name).read_text("utf-8"))
        except FileNotFoundError:
            return f"An image tower's folder holds config.json and preprocessor_config.json; add {name}."
        except (OSError, ValueError) as error:
            return f"Its {name} is no JSON ({first_line(error)}); copy it again."
    return "Both config.json and preprocessor_config.json are there; name a model whose processor transformers knows."


@dataclass(frozen=True)
class ProcessorImages:
    """A pretrained tower's own image processor, always its PIL form: equal numbers with torchvision and without."""

    processor: Any

    @classmethod
    def from_folder(cls, folder: Path) -> ProcessorImages:
        """Reads `preprocessor_config.json`.

        Raises:
            ModelError: the folder has none, or nobody knows the processor it names.
        """
        try:
            return cls(
                AutoImageProcessor.from_pretrained(
                    str(folder), backend="pil", local_files_only=True, trust_remote_code=False
                )
            )
        except (OSError, ValueError, ImportError) as error:
            raise ModelError(
                f"{folder}: no image processor can be loaded: {first_line(error)}\n  {_lacking(folder)}"
            ) from error

    def __call__(self, images: Sequence[RawImage]) -> dict[str, Tensor]:
        pixel_values = self.processor(images=_decode_all(images), return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixel_values.to(torch.float32)}

    def save(self, folder: Path) -> dict[str, Any]:
        self.processor.save_pretrained(str(folder / IMAGE_FOLDER))
        return {"kind": "processor"}


@dataclass(frozen=True)
class CaptionPreprocessor:
    """Callable: captions -> {"input_ids", "attention_mask"}, (n, tokens) int64 each.

    Attributes:
        tokenizer: of `transformers`.
        max_tokens: longer captions are cut.
        padding: shorter ones are padded to the longest of their batch, or to `max_tokens`.
    """

    tokenizer: Any
    max_tokens: int
    padding: Literal["longest", "max_length"] = "longest"

    @classmethod
    def load_tokenizer(cls, folder: Path) -> Any:
        """The tokenizer a folder holds.

        Raises:
            ModelError: it holds none, or one that needs code from elsewhere.
        """
        try:
            return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise ModelError(
                f"{folder}: no tokenizer can be loaded: {first_line(error)}\n"
                "  A text tower's folder holds tokenizer.json (or its vocabulary) beside its config.json; add it."
            ) from error

    def __call__(self, captions: Sequence[str]) -> dict[str, Tensor]:
        encoded = self.tokenizer(
            list(captions),
            padding=self.padding,
            truncation=True,
            max_length=self.max_tokens,
            return_attention_mask=True,
            return_token_type_ids=False,
            return_tensors="pt",
        )
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}

    def save(self, folder: Path) -> dict[str, Any]:
        tokenizer = copy.deepcopy(self.tokenizer)
        if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
            # Calls leave their padding and truncation in the tokenizer; its file must not depend on what was tokenised.
            backend.no_padding()
            backend.no_truncation()
        tokenizer.save_pretrained(str(folder / TOKENIZER_FOLDER))
        _forget_origin(folder / TOKENIZER_FOLDER / "tokenizer_config.json")
        return {"max_tokens": self.max_tokens} | ({} if self.padding == "longest" else {"padding": self.padding})


def _forget_origin(config: Path) -> None:
    """Removes the keys in which `transformers` notes how a tokenizer was loaded: saving again gives the same bytes."""
    settings = json.loads(config.read_text("utf-8"))
    kept = {
        key: value for key, value in settings.items() if key not in ("is_local", "local_files_only", "name_or_path")
    }
    config.write_text(json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


@dataclass(frozen=True)
class Preprocessor:
    """Both sides of a student's input; picklable."""

    images: ImagePreprocessor
    captions: CaptionPreprocessor

    def prepare_images(self, images: Sequence[RawImage]) -> dict[str, Tensor]:
        """{"pixel_values": (n, 3, height, width) float32} of encoded or opened images.

        Raises:
            CorpusError: an image cannot be decoded.
        """
        return self.images(images)

    def prepare_captions(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """{"input_ids", "attention_mask"}: (n, tokens) int64 each."""
        return self.captions(captions)

    def save(self, folder: Path) -> dict[str, Any]:
        """Writes `image_processor/` and `tokenizer/` where needed; returns what `load` takes."""
        return {"images": self.images.save(folder), "captions": self.captions.save(folder)}

    @classmethod
    def load(cls, folder: Path, description: Mapping[str, Any]) -> Preprocessor:
        """Reads back what `save` wrote and returned.

        Raises:
            ModelError: files are missing.
        """
        images, captions = description["images"], description["captions"]
        return cls(
            _load_images(folder, images),
            CaptionPreprocessor(CaptionPreprocessor.load_tokenizer(folder / TOKENIZER_FOLDER), **captions),
        )


def _load_images(folder: Path, described: Mapping[str, Any]) -> ImagePreprocessor:
    if described["kind"] == "square":
        return SquareImages(described["size"])
    if described["kind"] == "features":
        return NoImages()
    return ProcessorImages.from_folder(folder / IMAGE_FOLDER)
