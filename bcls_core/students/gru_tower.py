"""A text tower without a transformer: word vectors, a GRU that reads both ways, and the mean of its states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from bcls_core.errors import ShapeError
from bcls_core.students.base import Batch
from bcls_core.students.gru_steps import both_ways
from bcls_core.students.tokenizer import SPECIAL_TOKENS


class GruTower(nn.Module):
    """Prepared captions -> (n, dim) float32, trained from random weights.

    States of both directions are averaged, as in SCAN (Lee et al. 2018), and then over the words of a caption (ours);
    padding is never read.

    Args:
        vocabulary: of the tokenizer.
        words: length of a word's vector.
        dim: length of a state.
    """

    side = "text"
    frozen = False

    def __init__(self, vocabulary: int, words: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self._shape = {"vocabulary": vocabulary, "words": words, "dim": dim}
        self.words = nn.Embedding(vocabulary, words, padding_idx=SPECIAL_TOKENS.index("[PAD]"))
        self.gru = nn.GRU(words, dim, batch_first=True, bidirectional=True)

    def forward(self, batch: Batch) -> Tensor:
        ids, lengths = batch["input_ids"], batch["attention_mask"].sum(dim=1)
        return (self._in_steps if ids.device.type == "cpu" else self._at_once)(ids, lengths)

    def _at_once(self, ids: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.words(ids), lengths.cpu(), True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.gru(packed)[0], True, total_length=ids.shape[1])
        return states.float().reshape(*ids.shape, 2, self.dim).sum(dim=(1, 2)) / (2 * lengths[:, None])

    def _in_steps(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """The same, as processors like it."""
        if not bool(lengths.all()):
            raise ShapeError(
                f"caption {int(torch.argmin(lengths))} of the batch has no tokens. Give each at least one."
            )
        order = torch.argsort(lengths, descending=True, stable=True)
        step = torch.arange(ids.shape[1])[:, None]
        shown = step < lengths[order]  # (tokens, captions): who still has a token in a step
        captions, steps = (index.expand_as(shown)[shown] for index in (order, step))
        both = torch.stack([ids[captions, steps], ids[captions, lengths[captions] - 1 - steps]])
        of_words, of_states, bias_of_words, bias_of_states = (
            torch.stack([getattr(self.gru, f"{name}_l0{suffix}") for suffix in ("", "_reverse")])
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        inputs = torch.baddbmm(bias_of_words[:, None], self.words(both), of_words.transpose(1, 2))
        states = both_ways(inputs, of_states, bias_of_states, shown.sum(dim=1).tolist())
        summed = states.new_zeros(len(ids), self.dim).index_add(0, captions, states.sum(dim=0))
        return (summed / (2 * lengths[:, None])).float()

    def describe(self) -> dict[str, Any]:
        """JSON-able; `GruTower(**described["gru"])` is the same tower, its weights still to be loaded."""
        return {"gru": dict(self._shape)}
