"""A tower: one encoder of images or of captions, and the pooling that makes one vector of its output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import torch
from PIL import Image
from torch import Tensor, nn

from bcls_core.config.student import ConfiguredImageTower, ConfiguredTextTower, ConfiguredTower, PretrainedTower
from bcls_core.errors import ModelError
from bcls_core.students.base import Batch
from bcls_core.students.loading import (
    Side,
    build_model,
    describe_config,
    first_line,
    load_config,
    load_pretrained,
    make_config,
    restore_config,
)
from bcls_core.students.preprocess import CaptionPreprocessor, ProcessorImages, SquareImages
from bcls_core.students.sentence_folder import SentenceFolder
from bcls_core.students.tokenizer import SPECIAL_TOKENS
from bcls_core.teachers.resolve import fetch_model

Pooling = Literal["mean", "cls", "pooler"]
MOST_TOKENS = 256
"""A caption is a sentence or two: longer texts are cut here even where a tower would take more."""

_INPUTS: dict[Side, tuple[str, ...]] = {"image": ("pixel_values",), "text": ("input_ids", "attention_mask")}


class Tower(nn.Module):
    """A `transformers` model and its pooling: prepared inputs -> (n, dim) float32.

    A frozen tower stays in evaluation mode whatever mode its student is in, computes without gradient, and its
    parameters ask for none. So do the parameters of a trained tower that this pooling never reads: otherwise
    distributed training would wait for gradients that never come.

    Args:
        pooling: `mean` (over the tokens the attention mask shows, or over the map), `cls` (the first token), or
            `pooler` (the model's own pooled output).
        dim: length of the pooled vectors.
        unread: names of the model's parameters that its pooled output does not depend on.
        pretrained: whether training began with weights that the model came with.
    """

    def __init__(
        self,
        model: nn.Module,
        side: Side,
        *,
        pooling: Pooling,
        trained: bool,
        dim: int,
        unread: list[str],
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.side, self.pooling, self.dim, self.unread = model, side, pooling, dim, unread
        self.frozen, self.pretrained = not trained, pretrained
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained and name not in unread)
        self.train()

    def train(self, mode: bool = True) -> Tower:
        """Training mode, unless frozen."""
        return super().train(mode and not self.frozen)

    def forward(self, batch: Batch) -> Tensor:
        """(n, dim) pooled outputs."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return _pool(run_model(self.model, self.side, batch), self.pooling, batch.get("attention_mask"))

    def with_regions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(n, dim) pooled outputs, and (n, height, width, channels) of the cells of the last map.

        Raises:
            ModelError: the model's outputs are not known to be a grid over its pictures.
        """
        output = run_model(self.model, self.side, batch)
        height, width = batch["pixel_values"].shape[2:]
        return _pool(output, self.pooling, None), _grid(output.last_hidden_state, self.model.config, height, width)

    def describe(self) -> dict[str, Any]:
        """JSON-able; `restore_tower` makes the same tower of it, its weights still to be loaded."""
        config = describe_config(self.model.config)
        shape = {"pooling": self.pooling, "dim": self.dim, "unread": self.unread}
        return {"config": config, "trained": not self.frozen, "pretrained": self.pretrained, **shape}


def restore_tower(described: dict[str, Any], side: Side) -> Tower:
    """The tower that `Tower.describe` described, with random weights.

    Raises:
        ModelError: the installed `transformers` cannot make this model.
    """
    shape = {key: value for key, value in described.items() if key != "config"}
    return Tower(build_model(restore_config(described["config"]), pooler=shape["pooling"] == "pooler"), side, **shape)


def image_tower(settings: PretrainedTower | ConfiguredImageTower) -> tuple[Tower, ProcessorImages | SquareImages]:
    """A new image tower and what prepares its inputs.

    Raises:
        ModelError: the model cannot be found, loaded or made, or has no such pooling.
    """
    if isinstance(settings, PretrainedTower):
        folder = _fetch(settings)
        images = ProcessorImages.from_folder(folder)
        return _pretrained(folder, settings, settings.pooling, "image", images(_EXAMPLE_IMAGES)), images
    where = "student.image.config"
    config = make_config(_with_size(settings.config, "image_size", settings.size, where), where)
    squares = SquareImages(settings.size)
    return _configured(config, settings, "image", squares(_EXAMPLE_IMAGES)), squares


def text_tower(
    settings: PretrainedTower | ConfiguredTextTower, make_tokenizer: Callable[[ConfiguredTextTower], Any]
) -> tuple[Tower, CaptionPreprocessor]:
    """A new text tower and what prepares its inputs.

    Args:
        make_tokenizer: called for a tower without weights, whose tokenizer comes from the corpus.
    Raises:
        ModelError: as `image_tower`.
    """
    if isinstance(settings, PretrainedTower):
        sentences = SentenceFolder.read(_fetch(settings))
        folder = sentences.transformer
        tokenizer = CaptionPreprocessor.load_tokenizer(folder)
        config = load_config(folder, "text")
        limits = (
            MOST_TOKENS,
            sentences.max_tokens,
            tokenizer.model_max_length,
            getattr(config, "max_position_embeddings", None),
        )
        captions = CaptionPreprocessor(tokenizer, int(min(value for value in limits if value is not None)))
        wanted = sentences.pooling() if settings.pooling == "auto" else settings.pooling
        return _pretrained(folder, settings, wanted, "text", captions(_EXAMPLE_CAPTIONS)), captions
    where = "student.text.config"
    tokenizer = make_tokenizer(settings)
    values = _with_size(
        {"pad_token_id": SPECIAL_TOKENS.index("[PAD]"), **settings.config}, "vocab_size", len(tokenizer), where
    )
    config = make_config(values, where)
    if (positions := getattr(config, "max_position_embeddings", settings.max_tokens)) < settings.max_tokens:
        raise ModelError(
            f"{where}: max_position_embeddings is {positions}, max_tokens {settings.max_tokens}.\n"
            "  Raise the one or lower the other."
        )
    captions = CaptionPreprocessor(tokenizer, settings.max_tokens)
    return _configured(config, settings, "text", captions(_EXAMPLE_CAPTIONS)), captions


def run_model(model: nn.Module, side: Side, batch: Batch) -> Any:
    """The model's own output for the inputs of its side.

    Raises:
        ModelError: the batch lacks one of them.
    """
    if absent := [name for name in _INPUTS[side] if name not in batch]:
        raise ModelError(
            f"the {side} tower got {', '.join(batch) or 'nothing'}, without {', '.join(absent)}.\n"
            "  Prepare its inputs with the student's own preprocessor."
        )
    return model(**{name: batch[name] for name in _INPUTS[side]})


_EXAMPLE_IMAGES = [Image.new("RGB", (64, 64))]
_EXAMPLE_CAPTIONS = ["a dog runs"]


def _fetch(settings: PretrainedTower) -> Path:
    return fetch_model(settings.model, settings.revision)


def _pretrained(folder: Path, settings: PretrainedTower, pooling: str, side: Side, example: Batch) -> Tower:
    model = load_pretrained(folder, load_config(folder, side), pooler=pooling == "pooler")
    return _fitted(model, side, pooling, settings.trained, example, str(folder), pretrained=True)


def _configured(config: Any, settings: ConfiguredTower, side: Side, example: Batch) -> Tower:
    model = build_model(config, pooler=settings.pooling == "pooler")
    return _fitted(model, side, settings.pooling, True, example, f"student.{side}.config")


def _fitted(
    model: nn.Module, side: Side, pooling: str, trained: bool, example: Batch, where: str, *, pretrained: bool = False
) -> Tower:
    """Runs the model once: this shows what it can pool, how long its vectors are and which parameters they read."""
    model.eval()
    with torch.set_grad_enabled(trained):
        try:
            output = run_model(model, side, example)
        except (ValueError, TypeError, RuntimeError, IndexError, AttributeError) as error:
            raise ModelError(
                f"{where}: {type(model).__name__} does not work as {side} tower: {first_line(error)}\n"
                f"  Name a model that takes {' and '.join(_INPUTS[side])} alone."
            ) from error
        chosen = _choose_pooling(output, side, pooling, f"{where}: {type(model).__name__}")
        pooled = _pool(output, chosen, example.get("attention_mask"))
    unread = _unread_parameters(model, pooled) if trained else []
    return Tower(
        model, side, pooling=chosen, trained=trained, dim=pooled.shape[1], unread=unread, pretrained=pretrained
    )


def _unread_parameters(model: nn.Module, pooled: Tensor) -> list[str]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(pooled.sum(), parameters, allow_unused=True)
    return sorted(name for name, gradient in zip(names, gradients, strict=True) if gradient is None)


def _choose_pooling(output: Any, side: Side, wanted: str, where: str) -> Pooling:
    """`wanted`; for `auto` the model's own pooling where it has one, else [CLS] for images and the mean for the rest.

    Raises:
        ModelError: the model's output has nothing to pool so.
    """
    has_pooled, is_map = getattr(output, "pooler_output", None) is not None, output.last_hidden_state.ndim == 4
    if wanted == "auto":
        if has_pooled:
            return "pooler"
        return "cls" if side == "image" and not is_map else "mean"
    if wanted == "pooler" and not has_pooled:
        raise ModelError(f"{where} has no pooled output.\n  Set pooling to auto, mean or cls.")
    if wanted == "cls" and is_map:
        raise ModelError(f"{where} gives a map of features, which has no [CLS].\n  Set pooling to auto or mean.")
    return cast(Pooling, wanted)


def _pool(output: Any, pooling: Pooling, attention_mask: Tensor | None) -> Tensor:
    if pooling == "pooler":
        return cast(Tensor, output.pooler_output).flatten(1)
    states = cast(Tensor, output.last_hidden_state)
    if states.ndim == 4:
        return states.mean(dim=(2, 3))
    if pooling == "cls":
        return states[:, 0]
    if attention_mask is None:
        return states.mean(dim=1)
    shown = attention_mask.unsqueeze(-1).to(states.dtype)
    return (states * shown).sum(dim=1) / shown.sum(dim=1).clamp(min=1.0)


_NO_GRID = ("num_detection_tokens", "mask_ratio")
"""Of models whose outputs hold more than the cells, or not all of them, or in another order."""


def _grid(states: Tensor, config: Any, height: int, width: int) -> Tensor:
    """The cells of a map, or of a transformer's patches; in front of these may stand [CLS], another such, registers."""
    if states.ndim == 4 and _alike(height / states.shape[2], width / states.shape[3]):
        return states.permute(0, 2, 3, 1)
    patch = getattr(config, "patch_size", None)
    high, wide = (patch, patch) if isinstance(patch, int) else patch or (0, 0)
    if states.ndim == 3 and high and wide and not any(hasattr(config, name) for name in _NO_GRID):
        rows, columns = height // high, width // wide
        before = states.shape[1] - rows * columns
        if rows and columns and before - getattr(config, "num_register_tokens", 0) in (0, 1, 2):
            return states[:, before:].reshape(len(states), rows, columns, states.shape[2])
    raise ModelError(
        f"{type(config).__name__}: outputs of shape {tuple(states.shape[1:])} for pictures of {width} x {height} "
        f"pixels and patches of {patch} are not known to be a grid.\n  Leave regions out, or use another model."
    )


def _alike(stride: float, other: float) -> bool:
    return max(stride, other) < 1.3 * min(stride, other)


def _with_size(config: dict[str, Any], key: str, value: int, where: str) -> dict[str, Any]:
    """`config` with `key` set to what the inputs are, if models of its type have that key."""
    if config.get(key, value) != value:
        raise ModelError(
            f"{where}: {key} is {config[key]}, but the tower's inputs have {value}.\n  Remove {key}: it is set."
        )
    has_key = hasattr(make_config({"model_type": config["model_type"]}, where), key)
    return {**config, key: value} if has_key else config
