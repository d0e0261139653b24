"""CLIP, SigLIP and their like, whole: one model of `transformers` that encodes pictures and captions into one space."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from bcls_core.config.student import ClipStudent
from bcls_core.errors import ModelError
from bcls_core.students.base import Batch, Student
from bcls_core.students.loading import (
    build_model,
    describe_config,
    first_line,
    load_dual_config,
    load_pretrained,
    make_config,
    require_dual,
    restore_config,
)
from bcls_core.students.preprocess import CaptionPreprocessor, Preprocessor, ProcessorImages, SquareImages
from bcls_core.students.tokenizer import SPECIAL_TOKENS, build_tokenizer
from bcls_core.teachers.resolve import fetch_model

_PADDED = ("siglip", "siglip2")
"""Types of models that read a caption from its last place, and were trained on captions of one length."""


class DualEncoder(Student):
    """Encodings are unit vectors: what the model itself compares. Its own temperature is left to the losses.

    Args:
        settings: `config` as `describe_config` gives it, `unread` (parameters that no encoding depends on),
            `pretrained`.
        preprocessor: what prepares the inputs.
        model: made from the settings, with random weights, if None.
    """

    def __init__(self, settings: dict[str, Any], preprocessor: Preprocessor, model: nn.Module | None = None) -> None:
        super().__init__(settings, preprocessor)
        self.model: Any = model or build_model(restore_config(settings["config"]), pooler=True)
        self._padded = settings["config"]["model_type"] in _PADDED
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name not in settings["unread"])

    @classmethod
    def from_recipe(cls, recipe: ClipStudent, captions: Iterable[str]) -> DualEncoder:
        """A new student; `captions` are read only if a tokenizer has to be made.

        Raises:
            ModelError: the model cannot be found, loaded or made, or is no dual encoder.
        """
        if recipe.model is not None:
            folder = fetch_model(recipe.model, recipe.revision)
            config = load_dual_config(folder)
            images: ProcessorImages | SquareImages = ProcessorImages.from_folder(folder)
            tokenizer, length = CaptionPreprocessor.load_tokenizer(folder), config.text_config.max_position_embeddings
            model, where = load_pretrained(folder, config, pooler=True), str(folder)
        else:
            where = "student.config"
            require_dual(make_config({"model_type": (recipe.config or {})["model_type"]}, where), where)
            tokenizer = build_tokenizer(captions, vocabulary=recipe.vocabulary, max_tokens=recipe.max_tokens)
            config, length = make_config(_completed(recipe, len(tokenizer)), where), recipe.max_tokens
            images, model = SquareImages(recipe.size), build_model(config, pooler=True)
        padding: Literal["longest", "max_length"] = "max_length" if config.model_type in _PADDED else "longest"
        preprocessor = Preprocessor(images, CaptionPreprocessor(tokenizer, length, padding))
        settings = {
            "config": describe_config(config),
            "unread": _unread(model, preprocessor, config.model_type, where),
            "pretrained": recipe.model is not None,
        }
        return cls(settings, preprocessor, model)

    @property
    def pretrained_towers(self) -> list[nn.Module]:
        return [self.model] if self.settings["pretrained"] else []

    def encode_images(self, batch: Batch) -> Tensor:
        """(images, dim) unit vectors."""
        return functional.normalize(_of_images(self.model, batch), dim=-1)

    def encode_captions(self, batch: Batch) -> Tensor:
        """(captions, dim) unit vectors."""
        return functional.normalize(_of_captions(self.model, batch, padded=self._padded), dim=-1)


def _of_images(model: Any, batch: Batch) -> Tensor:
    pooled: Tensor = model.get_image_features(pixel_values=batch["pixel_values"]).pooler_output
    return pooled


def _of_captions(model: Any, batch: Batch, *, padded: bool) -> Tensor:
    # Models that were trained on captions of one length see all of it.
    mask = {} if padded else {"attention_mask": batch["attention_mask"]}
    pooled: Tensor = model.get_text_features(input_ids=batch["input_ids"], **mask).pooler_output
    return pooled


def _completed(recipe: ClipStudent, vocabulary: int) -> dict[str, Any]:
    """The configuration with what follows from pictures and tokenizer; what is given must agree with it."""
    given = dict(recipe.config or {})
    pad, last = (SPECIAL_TOKENS.index(token) for token in ("[PAD]", "[SEP]"))
    known: dict[str, dict[str, int]] = {
        "vision_config": {"image_size": recipe.size},
        "text_config": {
            "vocab_size": vocabulary,
            "max_position_embeddings": recipe.max_tokens,
            "pad_token_id": pad,
            "eos_token_id": last,
        },
    }
    for part, values in known.items():
        own = dict(given.get(part) or {})
        for key, value in values.items():
            if own.setdefault(key, value) != value:
                raise ModelError(
                    f"student.config.{part}: {key} is {own[key]}, but the inputs have {value}.\n"
                    f"  Remove {key}: it is set."
                )
        given[part] = own
    return given


def _unread(model: nn.Module, preprocessor: Preprocessor, model_type: str, where: str) -> list[str]:
    """Parameters that no encoding depends on; running the model once also shows whether it is a dual encoder."""
    model.eval()
    images = preprocessor.prepare_images([Image.new("RGB", (64, 64))])
    captions = preprocessor.prepare_captions(["a dog runs"])
    try:
        both = _of_images(model, images).sum() + _of_captions(model, captions, padded=model_type in _PADDED).sum()
    except (AttributeError, ValueError, TypeError, RuntimeError, IndexError) as error:
        raise ModelError(
            f"{where}: {type(model).__name__} does not work as a dual encoder: {first_line(error)}\n"
            "  Name a model such as CLIP or SigLIP, which encodes pictures and texts into one space."
        ) from error
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(both, parameters, allow_unused=True)
    return sorted(name for name, gradient in zip(names, gradients, strict=True) if gradient is None)
