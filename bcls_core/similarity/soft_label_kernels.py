"""Softmax over a caption, its neighbours and a sampled tail, compiled. Importing it loads the compiler."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bcls_core.compiled import compiled

_LN2_HIGH = 0.693147180369123816490  # ln 2 in two parts, the first with zeros at its end
_LN2_LOW = 1.90821492927058770002e-10
_PER_LN2 = 1.44269504088896338700
_TERMS = np.array([1.0 / math.factorial(n) for n in range(14)])


@compiled
def exponential(x: float) -> float:
    """e^x for x <= 0 from sums and products alone, so that every processor gives the same bits."""
    if x < -700.0:
        return 0.0
    whole = np.rint(x * _PER_LN2)
    rest = (x - whole * _LN2_HIGH) - whole * _LN2_LOW
    value = _TERMS[13]
    for n in range(12, -1, -1):
        value = value * rest + _TERMS[n]
    return math.ldexp(value, int(whole))


@compiled
def spread(
    own: NDArray[np.float32],
    images: NDArray[np.int64],
    others: NDArray[np.int64],
    scores: NDArray[np.float32],
    neighbours: NDArray[np.int64],
    sampled: NDArray[np.float32],
    drawn: NDArray[np.int64],
    image_of: NDArray[np.int64],
    sharpness: float,
    probs: NDArray[np.float32],
    tail: NDArray[np.float32],
) -> None:
    """Writes `probs` and `tail` of some captions.

    Args:
        own: (captions,) similarity of each with itself.
        images: (captions,) their images.
        others: (captions,) captions of other images there are.
        scores, neighbours: (captions, k).
        sampled: (captions, drawn) similarity with the rows `drawn`, which ascend.
        image_of: (rows,) image of every row.
        sharpness: 1 / temperature.
        probs: (captions, 1 + k) written.
        tail: (captions,) written.
    """
    k = scores.shape[1]
    weights = np.empty(k + 1)
    for i in range(len(own)):
        found = 0
        while found < k and neighbours[i, found] >= 0:
            found += 1
        highest = own[i]
        if found and scores[i, 0] > highest:
            highest = scores[i, 0]
        weights[0] = exponential((np.float64(own[i]) - np.float64(highest)) * sharpness)
        total = weights[0]
        for place in range(found):
            weights[place + 1] = exponential((np.float64(scores[i, place]) - np.float64(highest)) * sharpness)
            total += weights[place + 1]
        mass, met = 0.0, 0
        if others[i] > found and found:
            last_score, last_row = scores[i, found - 1], neighbours[i, found - 1]
            for place in range(len(drawn)):
                row, score = drawn[place], sampled[i, place]
                nearer = score > last_score or (score == last_score and row <= last_row)
                if nearer or image_of[row] == images[i]:
                    continue
                mass += exponential((np.float64(score) - np.float64(highest)) * sharpness)
                met += 1
        left = mass / met * (others[i] - found) if met else 0.0
        total += left
        for place in range(k + 1):
            probs[i, place] = weights[place] / total if place <= found else 0.0
        tail[i] = left / total
