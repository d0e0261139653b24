"""How a step's rows go through the student and gradients come back: at once, or a piece at a time.

A contrastive loss needs the encodings of the whole batch, not the activations behind them. *Gradient caching* (Gao et
al. 2021) uses that: encodings are computed piece by piece, without keeping activations; the loss gives a gradient of
each encoding; then each piece is encoded again, and its encodings' gradients go through it. The gradients of the
weights are the batch's, up to rounding; memory holds the activations of one piece; each row is encoded twice. Random
numbers (dropout) of both times are the same. A batch norm sees a piece at a time, as small batches would.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bcls_core.errors import ConfigError
from bcls_core.students import Student
from bcls_core.training.batches import Batch, Inputs
from bcls_core.training.sharding import is_sharded, whole_parameters
from bcls_core.workers import Workers

Encodings = tuple[Tensor, Tensor]

_OVERLAPPED = {"cuda"}  # devices that compute while gradients are exchanged


class StepEncoder:
    """Encodes the rows of one worker's steps; each begins with the first worker's buffers (running statistics).

    Args:
        student: on its device; its parameters that ask for gradients now are those that get them.
        piece: most rows of a side that are encoded at once; all of them if None.
        bf16: whether the towers compute in bfloat16 where that is safe (autocast); encodings are float32 in any case.
        compiled: whether `torch.compile` makes code for the towers.
    """

    def __init__(
        self,
        student: Student,
        workers: Workers,
        *,
        piece: int | None = None,
        bf16: bool = False,
        compiled: bool = False,
    ) -> None:
        self._student, self._workers, self._piece, self._bf16 = student, workers, piece, bf16
        self._plain = _BothTowers(student)
        if compiled:
            # Sizes that turn out to change (rows, tokens) become variables then. Those of pictures stay numbers: with
            # variables, inductor cannot order the strides of some convolutions.
            self._plain.compile()
        trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
        # Torch's data parallelism follows one forward and one backward a step; pieces have many, so there it is done by
        # hand. Sharded parameters do their part themselves. And torch adds gradients in another order in a first step
        # than in later ones, so that from three workers on a training that was stopped would go on with other bits:
        # where nothing is gained by exchanging gradients while others are computed, it is done by hand, too.
        overlapped = (
            piece is None and not is_sharded(student) and all(one.device.type in _OVERLAPPED for one in trained)
        )
        self._by_hand = workers.size > 1 and not overlapped
        self._exchanged = whole_parameters(student)
        self._model: nn.Module = self._plain
        if workers.size > 1 and overlapped and trained:
            self._model = DistributedDataParallel(self._plain, gradient_as_bucket_view=True)

    def encode(self, batch: Batch, seed: Sequence[int]) -> EncodedStep:
        """This worker's encodings of a step.

        Args:
            seed: of the step's random numbers; non-negative.
        Raises:
            ConfigError: the step before left a part of the student unused, which torch's data parallelism refuses.
        """
        # Of the largest part, so that all workers make as many pieces.
        pieces = 1 if self._piece is None else -(-max(batch.sizes) // self._piece)
        cut = [_Piece(images, captions, (*seed, place)) for place, (images, captions) in enumerate(_cut(batch, pieces))]
        if self._by_hand:
            self._workers.share_buffers(self._student)
        if pieces == 1:
            try:
                return EncodedStep(*self._forward(self._model, cut[0]), self)
            except RuntimeError as error:
                if "finished reduction" not in str(error):
                    raise
                raise ConfigError(
                    "train.student: a step left some of its parameters unused, while gradients are exchanged as they "
                    f"are computed. Set train.mini_batch_size={max(batch.sizes)}: then they are exchanged when a step "
                    "ends, and it may use what it likes."
                ) from error
        with torch.no_grad(), _buffers_kept(self._student):
            parts = [self._forward(self._plain, piece) for piece in cut]
        images, captions = (torch.cat(side).requires_grad_() for side in zip(*parts, strict=True))
        return EncodedStep(images, captions, self, cut)

    def propagate(self, pieces: Sequence[_Piece], gradients: Encodings) -> None:
        """Encodes pieces again and sends the gradients of their encodings through the student."""
        begin = 0
        for piece in pieces:
            encoded = self._forward(self._plain, piece)
            part = slice(begin, begin + len(encoded[0]))
            begin = part.stop
            sides = [(side, whole[part]) for side, whole in zip(encoded, gradients, strict=True) if side.requires_grad]
            if sides:  # a tower may be frozen for now
                torch.autograd.backward([side for side, _ in sides], [gradient for _, gradient in sides])

    def exchange(self) -> None:
        """What data parallelism does after a backward pass, where it is done by hand."""
        if self._by_hand:
            self._workers.average_gradients(self._exchanged)

    def _forward(self, model: nn.Module, piece: _Piece) -> Encodings:
        torch.manual_seed(piece.seed)
        device = next(iter(piece.images.values())).device
        with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
            images, captions = model(piece.images, piece.captions)
        return images.float(), captions.float()


@dataclass(frozen=True)
class EncodedStep:
    """Encodings that a loss can be computed of.

    Attributes:
        images, captions: (rows, dim) float32, of this worker's rows.
    """

    images: Tensor
    captions: Tensor
    _encoder: StepEncoder
    _pieces: Sequence[_Piece] = ()

    def backward(self, loss: Tensor) -> None:
        """Adds the loss's gradients to those of the student, and of whatever else the loss was made of."""
        loss.backward()  # type: ignore[no-untyped-call]
        if self._pieces:
            gradients = tuple(
                torch.zeros_like(side) if side.grad is None else side.grad for side in (self.images, self.captions)
            )
            self._encoder.propagate(self._pieces, (gradients[0], gradients[1]))
        self._encoder.exchange()


@dataclass(frozen=True)
class _Piece:
    images: Inputs
    captions: Inputs
    _seed: Sequence[int] = field(repr=False)

    @property
    def seed(self) -> int:
        return int(np.random.SeedSequence(list(self._seed)).generate_state(1, np.uint64)[0] >> np.uint64(1))


class _BothTowers(nn.Module):
    """One forward for both sides, as data parallelism wants it."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: Inputs, captions: Inputs) -> Encodings:
        return self.student.encode_images(images), self.student.encode_captions(captions)


def _cut(batch: Batch, pieces: int) -> Iterator[tuple[Inputs, Inputs]]:
    """Parts of the rows, one after the other, that differ by at most one row."""
    rows = len(next(iter(batch.images.values())))
    for place in range(pieces):
        part = slice(rows * place // pieces, rows * (place + 1) // pieces)
        yield _rows(batch.images, part), _rows(batch.captions, part)


def _rows(inputs: Mapping[str, Tensor], part: slice) -> Inputs:
    return {name: tensor[part] for name, tensor in inputs.items()}


@contextlib.contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """What is encoded twice counts once in running statistics."""
    kept = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for module, name, buffer, before in kept:
            setattr(module, name, buffer.copy_(before))  # it may have been replaced


def keep_few_activations(student: nn.Module) -> None:
    """Has the towers compute activations again when gradients go through them, instead of keeping them all.

    Raises:
        ConfigError: no part of the student can do that.
    """
    able: list[Any] = [one for one in student.modules() if getattr(one, "supports_gradient_checkpointing", False)]
    for module in able:
        # transformers is giving it a new name.
        enable = getattr(module, "activation_checkpointing_enable", None) or module.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if not able:
        raise ConfigError(
            "runtime.activation_checkpointing: no tower of this student supports it. Leave it off; "
            "train.mini_batch_size bounds the memory of activations for every student."
        )
