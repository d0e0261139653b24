"""A text tower without a transformer: word vectors, a GRU that reads both ways, and the mean of its states."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from bcls_core.students.base import Batch
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
        mask = batch["attention_mask"]
        lengths = mask.sum(dim=1)
        packed = pack_padded_sequence(self.words(batch["input_ids"]), lengths.cpu(), True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.gru(packed)[0], True, total_length=mask.shape[1])
        forwards, backwards = states.float().chunk(2, dim=2)
        return ((forwards + backwards) / 2).sum(dim=1) / lengths[:, None]

    def describe(self) -> dict[str, Any]:
        """JSON-able; `GruTower(**described["gru"])` is the same tower, its weights still to be loaded."""
        return {"gru": dict(self._shape)}
