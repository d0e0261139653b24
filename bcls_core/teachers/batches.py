"""Batches of captions that have exactly as many tokens as each other, so that nothing is padded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Features = dict[str, Any]
Tokenise = Callable[[list[str]], Mapping[str, Any]]

_CHUNK = 512  # captions tokenised at once: alike in length, so that one long caption does not widen thousands
_LIBRARY_BATCH = 32  # sentence-transformers' own, for features that cannot be cut


@dataclass(frozen=True, eq=False)
class Batch:
    """`places[i]` is where row i of `features`, a model's input, stands among the captions."""

    places: NDArray[np.int64]
    features: Features


def batches(tokenise: Tokenise, texts: Sequence[str], tokens: int) -> Iterator[Batch]:
    """Every text once, in batches that depend on `texts` and `tokens` alone.

    Texts are sorted by length, tokenised, and gathered by their number of tokens until a batch is full. Where a
    tokeniser's output is no rectangle with one mask, its chunks are the batches, as it padded them.

    Args:
        tokenise: texts -> a model's features, padded to the longest.
        texts: the captions.
        tokens: in a batch, at most, unless a single text has more.
    """
    order = np.argsort([len(text) for text in texts], kind="stable")
    waiting: dict[int, list[Batch]] = defaultdict(list)
    start, step = 0, _CHUNK
    while start < len(order):
        places = order[start : start + step]
        features = dict(tokenise([texts[place] for place in places]))
        lengths = _lengths(features, len(places))
        if lengths is None:
            if step != _LIBRARY_BATCH and len(places) > _LIBRARY_BATCH:
                step = _LIBRARY_BATCH
                continue
            yield Batch(places, features)
        else:
            for length in np.unique(lengths):
                rows = np.flatnonzero(lengths == length)
                width = max(int(length), 1)  # a model may make something even of nothing
                waiting[width].append(Batch(places[rows], _cut(features, rows, width)))
                yield from _full(waiting[width], max(1, tokens // width))
        start += step
    for _, rest in sorted(waiting.items()):
        if rest:
            yield _join(rest)


def _lengths(features: Features, count: int) -> NDArray[np.int64] | None:
    """The number of tokens of each text; None if the features cannot be cut."""
    mask = features.get("attention_mask")
    if mask is None or mask.ndim != 2 or len(mask) != count or not mask.shape[1]:
        return None
    if any(hasattr(value, "shape") and value.shape != mask.shape for value in features.values()):
        return None
    lengths = mask.sum(dim=1)
    from_its_side = mask.flip(1) if _pads_left(mask) else mask
    if not bool((from_its_side.cumprod(dim=1).sum(dim=1) == lengths).all()):
        return None  # padding amid the tokens
    found: NDArray[np.int64] = lengths.numpy().astype(np.int64)
    return found


def _pads_left(mask: Tensor) -> bool:
    return bool((mask[:, 0] < mask[:, -1]).any())


def _cut(features: Features, rows: NDArray[np.int64], width: int) -> Features:
    columns = slice(-width, None) if _pads_left(features["attention_mask"]) else slice(0, width)
    return {name: value[rows][:, columns] if hasattr(value, "shape") else value for name, value in features.items()}


def _full(waiting: list[Batch], size: int) -> Iterator[Batch]:
    """Batches of `size` texts; what is left stays in `waiting`."""
    while sum(len(batch.places) for batch in waiting) >= size:
        joined = _join(waiting)
        waiting.clear()
        if len(joined.places) > size:
            waiting.append(_part(joined, slice(size, None)))
        yield _part(joined, slice(0, size))


def _part(batch: Batch, rows: slice) -> Batch:
    features = {name: value[rows] if hasattr(value, "shape") else value for name, value in batch.features.items()}
    return Batch(batch.places[rows], features)


def _join(parts: list[Batch]) -> Batch:
    # Imported here: fingerprints are made before anything heavy is loaded.
    import torch

    features = {
        name: torch.cat([part.features[name] for part in parts]) if hasattr(value, "shape") else value
        for name, value in parts[0].features.items()
    }
    return Batch(np.concatenate([part.places for part in parts]), features)
