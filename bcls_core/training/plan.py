"""The seeded batch plan: which captions, with which images, meet in which step of an epoch.

How an epoch is dealt. Images are shuffled, and so are the captions of each; the captions are then dealt to the steps
in rounds, like cards: a round gives every step one caption, in an order drawn anew for each round. An image's captions
come one after the other, so they fall into different steps, and the sizes of the steps differ by at most one. Where an
image's captions run over the end of a round, the next round begins with steps that the image has not met.

Inside a round the steps come from the parts of the epoch in turn (first fifth, third fifth, ... when images have five
captions), so that an image's captions are spread over the epoch instead of crowding by chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bcls_core.errors import ShapeError

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BatchPlan:
    """One epoch: step `i` holds the rows `offsets[i]` to `offsets[i + 1]` of `image_rows` and `caption_rows`.

    Attributes:
        image_rows: (captions in the plan,) row of the image in each slot; within a step no row comes twice.
        caption_rows: (captions in the plan,) row of the caption in each slot; over the epoch no row comes twice.
        offsets: (steps + 1,) where each step begins.
        left_out: captions of the corpus that this epoch does not hold (see `batch_plan`).
        grouped: captions that stand among related ones on purpose (see `related_plan`).
        epoch: which one it is.
    """

    image_rows: Rows
    caption_rows: Rows
    offsets: Rows
    left_out: int
    grouped: int = 0
    epoch: int = 0

    @property
    def steps(self) -> int:
        return len(self.offsets) - 1

    @property
    def used(self) -> int:
        """Captions the epoch holds."""
        return len(self.caption_rows)

    def step(self, index: int) -> tuple[Rows, Rows]:
        """Image rows and caption rows of a step, aligned: (batch,) each."""
        return self.slice(index, rank=0, world=1)

    def slice(self, index: int, rank: int, world: int) -> tuple[Rows, Rows]:
        """The part of a step that one of `world` workers reads: contiguous; joined in rank order they are the step.

        The parts differ by at most one caption; a worker gets none when the step holds fewer captions than workers.

        Raises:
            ShapeError: there is no such step or no such rank.
        """
        if not 0 <= index < self.steps:
            raise ShapeError(f"step {index}: the plan has steps 0 to {self.steps - 1}.")
        if not 0 <= rank < world:
            raise ShapeError(f"rank {rank} of {world} workers: ranks go from 0 to {world - 1}.")
        start, stop = int(self.offsets[index]), int(self.offsets[index + 1])
        begin = start + (stop - start) * rank // world
        end = start + (stop - start) * (rank + 1) // world
        return self.image_rows[begin:end], self.caption_rows[begin:end]


def batch_plan(caption_image: npt.NDArray[np.integer[Any]], batch_size: int, *, seed: int, epoch: int) -> BatchPlan:
    """Deals the captions of a split into the batches of one epoch.

    An epoch uses each caption once, a batch never holds an image twice, and there are ceil(captions / batch_size) steps
    whose sizes differ by at most one. The plan depends on the arguments alone, not on workers or machine.

    An image with more captions than there are steps cannot have them all in an epoch: which of them are left out is
    drawn anew for each epoch, and `left_out` counts them. This happens only in small splits, and always where
    `batch_size` exceeds the number of images.

    Args:
        caption_image: (captions,) row of each caption's image.
        batch_size: most captions a step, over all workers.
        seed, epoch: non-negative; each pair gives another plan.
    Raises:
        ShapeError: there are no captions, or `batch_size` is not positive.
    """
    if caption_image.ndim != 1 or len(caption_image) == 0:
        raise ShapeError(
            f"caption_image has shape {caption_image.shape}: expected (captions,) with at least one caption."
        )
    if batch_size < 1:
        raise ShapeError(f"batch_size is {batch_size}: expected at least 1.")
    steps = -(-len(caption_image) // batch_size)
    # The bit generator's stream is fixed for good; the distributions drawn from it may change with numpy's version.
    bits = np.random.PCG64(np.random.SeedSequence([seed, epoch]))

    image_rows, caption_rows, place = _shuffled_by_image(caption_image.astype(np.int64), bits)
    kept = place < steps
    image_rows, caption_rows, place = image_rows[kept], caption_rows[kept], place[kept]

    rounds = _rounds(-(-len(caption_rows) // steps), steps, _usual_count(place), bits)
    _part_repeats(rounds, place)
    step_of_slot = rounds.reshape(-1)[: len(caption_rows)]

    by_step = np.argsort(step_of_slot, kind="stable")
    sizes = np.bincount(step_of_slot, minlength=steps)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return BatchPlan(
        image_rows[by_step],
        caption_rows[by_step],
        offsets,
        left_out=len(caption_image) - len(caption_rows),
        epoch=epoch,
    )


def draw(bits: np.random.PCG64, *shape: int) -> npt.NDArray[np.uint64]:
    """Random whole numbers of this shape: the generator's raw stream, the same with every version of numpy."""
    return np.asarray(bits.random_raw(int(np.prod(shape))), dtype=np.uint64).reshape(shape)


def _shuffled_by_image(caption_image: Rows, bits: np.random.PCG64) -> tuple[Rows, Rows, Rows]:
    """Image rows and caption rows, images in random order, an image's captions adjacent and in random order.

    The third array counts each caption's place among its image's, from 0.
    """
    images, image_of_caption = np.unique(caption_image, return_inverse=True)
    image_order = np.argsort(np.argsort(draw(bits, len(images)), kind="stable"), kind="stable")
    caption_rows = np.lexsort((draw(bits, len(caption_image)), image_order[image_of_caption])).astype(np.int64)
    image_rows = caption_image[caption_rows]
    starts = np.flatnonzero(np.diff(image_rows, prepend=image_rows[0] - 1))
    place = np.arange(len(image_rows)) - np.repeat(starts, np.diff(starts, append=len(image_rows)))
    return image_rows, caption_rows, place


def _usual_count(place: Rows) -> int:
    """Captions an image usually has (the median), from the places of its captions."""
    return int(np.median(place[np.append(place[1:] == 0, True)])) + 1


def _rounds(rounds: int, steps: int, parts: int, bits: np.random.PCG64) -> Rows:
    """(rounds, steps): each row a random order of all steps that visits the epoch's `parts` in turn."""
    part_of_step = np.arange(steps) * parts // steps
    turn_of_part = np.argsort(draw(bits, rounds, parts), axis=1, kind="stable")
    by_part = np.argsort(draw(bits, rounds, steps), axis=1, kind="stable")
    by_part = np.take_along_axis(by_part, np.argsort(part_of_step[by_part], axis=1, kind="stable"), axis=1)
    starts = np.searchsorted(part_of_step, np.arange(parts))
    # Row by row the steps stand part by part now; the n-th step of each part belongs to the n-th turn.
    nth_of_part = np.arange(steps) - starts[part_of_step]
    turn = nth_of_part * parts + turn_of_part[:, part_of_step]
    return np.take_along_axis(by_part, np.argsort(turn, axis=1, kind="stable"), axis=1)


def _part_repeats(rounds: Rows, place: Rows) -> None:
    """Reorders the heads of rounds in place, so that an image dealt over the end of a round meets no step twice."""
    steps = rounds.shape[1]
    slots_of_image = np.append(np.flatnonzero(place == 0), len(place))
    firsts = np.arange(1, len(rounds)) * steps
    owner = np.searchsorted(slots_of_image, firsts, side="right") - 1
    for number, (begin, end) in enumerate(zip(slots_of_image[owner], slots_of_image[owner + 1], strict=True), start=1):
        tail = firsts[number - 1] - begin
        if tail == 0:
            continue
        head = end - firsts[number - 1]
        met, order = rounds[number - 1, steps - tail :], rounds[number]
        clashing = np.flatnonzero(np.isin(order[:head], met))
        if len(clashing) == 0:
            continue
        free = head + np.flatnonzero(np.isin(order[head:], met, invert=True))[: len(clashing)]
        order[clashing], order[free] = order[free], order[clashing]
