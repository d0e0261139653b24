"""What every student is: two encoders, a score, and the preparation of their inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from bcls_core.errors import ModelError
from bcls_core.students.preprocess import CaptionPreprocessor, Preprocessor, RawImage, SquareImages
from bcls_core.students.tokenizer import build_tokenizer

Batch = Mapping[str, Tensor]
"""Prepared inputs of one side: `pixel_values`, or `input_ids` and `attention_mask`; or `features` instead."""


class Student(nn.Module, ABC):
    """A trainable model that scores images against captions.

    A model of one's own is a subclass with `encode_images` and `encode_captions`, named in a recipe as
    `student: {kind: custom, target: "my_module:MyStudent", settings: {...}}`. It is built as `MyStudent(settings,
    preprocessor)`; `make_preprocessor` chooses its inputs, and by default gives square images in [-1, 1] and a
    tokenizer made from the training captions:

        class MyStudent(Student):
            def __init__(self, settings, preprocessor):
                super().__init__(settings, preprocessor)
                self.image_encoder = ...

            def encode_images(self, batch):
                return functional.normalize(self.image_encoder(batch["pixel_values"]), dim=-1)

            def encode_captions(self, batch): ...

    Attributes:
        factorised: scores are products of the encodings, so these can be gathered over workers and indexed; the score
            here is one. A student with another `score` sets it to False.
        settings: JSON-able; with the preprocessor and the weights, all that makes the student again.
    """

    factorised: bool = True

    def __init__(self, settings: dict[str, Any], preprocessor: Preprocessor) -> None:
        super().__init__()
        self.settings = settings
        self.preprocessor = preprocessor

    @classmethod
    def make_preprocessor(cls, settings: dict[str, Any], captions: Iterable[str]) -> Preprocessor:
        """Square images of side `settings["size"]` (64), words of the captions (`vocabulary` 4096, `max_tokens` 48)."""
        max_tokens = int(settings.get("max_tokens", 48))
        tokenizer = build_tokenizer(captions, vocabulary=int(settings.get("vocabulary", 4096)), max_tokens=max_tokens)
        return Preprocessor(SquareImages(int(settings.get("size", 64))), CaptionPreprocessor(tokenizer, max_tokens))

    @abstractmethod
    def encode_images(self, batch: Batch) -> Tensor:
        """(images, dim) encodings of prepared images, or of their frozen tower's `features` (images, d)."""

    @abstractmethod
    def encode_captions(self, batch: Batch) -> Tensor:
        """(captions, dim) encodings of prepared captions, or of their frozen tower's `features` (captions, d)."""

    def score(self, image_encodings: Tensor, caption_encodings: Tensor) -> Tensor:
        """(images, captions) scores, higher is closer; the dot product, which for unit vectors is the cosine."""
        return image_encodings @ caption_encodings.T

    def prepare_images(self, images: Sequence[RawImage]) -> dict[str, Tensor]:
        """What `encode_images` takes, from encoded or opened images."""
        return self.preprocessor.prepare_images(images)

    def prepare_captions(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """What `encode_captions` takes, from texts."""
        return self.preprocessor.prepare_captions(captions)

    @property
    def pretrained_towers(self) -> Sequence[nn.Module]:
        """Parts that came with weights and are trained: they can have a rate of their own and stay frozen at first."""
        return ()

    @property
    def image_tower_frozen(self) -> bool:
        """The image side begins with a part that training never changes: its features can be computed once."""
        return False

    @property
    def caption_tower_frozen(self) -> bool:
        """As `image_tower_frozen`, of the caption side."""
        return False

    def frozen_image_features(self, prepared: Batch) -> Tensor:
        """(images, d) outputs of the frozen image tower, to be given back as `features`; without gradient.

        Raises:
            ModelError: the image tower is not frozen.
        """
        raise ModelError(f"{type(self).__name__} has no frozen image tower (it was given {', '.join(prepared)}).")

    def frozen_caption_features(self, prepared: Batch) -> Tensor:
        """(captions, d) outputs of the frozen text tower, to be given back as `features`; without gradient.

        Raises:
            ModelError: the text tower is not frozen.
        """
        raise ModelError(f"{type(self).__name__} has no frozen text tower (it was given {', '.join(prepared)}).")
