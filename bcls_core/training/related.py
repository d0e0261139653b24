"""Relevance-aware batches: part of each step is groups of related images, found through neighbours of their captions.

How groups come about. A random plan (`batch_plan`) is dealt first. Then steps take turns: a caption of the step, drawn
at random, begins a group, and its nearest neighbours join it, each in exchange for a caption of the step that is in no
group. Where a neighbour stands in a group already, another caption of its image comes in its place. An exchange is made
only where neither step then holds an image twice, so the random plan's promises hold for this one too: the same steps
of the same sizes, and the same captions, each once. Steps form one group a turn, so that late steps of an epoch find as
much that is related as early ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bcls_core.config import RelatedBatches, TrainSettings
from bcls_core.data.rows import CorpusRows
from bcls_core.errors import ShapeError
from bcls_core.store import Artifact
from bcls_core.training.plan import BatchPlan, Rows, batch_plan, draw

_STREAM = 1  # keeps the draws of groups apart from those of the random plan


@dataclass(frozen=True)
class Neighbours:
    """Per caption of a split its neighbours there, nearest first: those of row `c` are `rows[starts[c]:starts[c + 1]]`.

    Attributes:
        starts: (captions + 1,) int64.
        rows: (neighbours of all captions,) int32 caption rows.
    """

    starts: Rows
    rows: npt.NDArray[np.int32]

    @classmethod
    def read(cls, labels: Artifact, measure: str, corpus_rows: CorpusRows) -> Neighbours:
        """From a label set's table `neighbours/MEASURE`, the parts of the split's shards.

        Raises:
            StoreError: there is no such table or part, or a file is missing or damaged.
        """
        tables = [labels.read(f"neighbours/{measure}", shard, ["id", "ids"]) for shard in corpus_rows.shards]
        ids = [table["id"].to_numpy() for table in tables]
        lists = [column for table in tables for column in table["ids"].chunks]
        lengths = [column.value_lengths().to_numpy() for column in lists]
        flat = [column.flatten().to_numpy() for column in lists]
        none = np.zeros(0, np.int64)
        return cls.from_ids(corpus_rows.caption_ids, *(np.concatenate([none, *part]) for part in (ids, lengths, flat)))

    @classmethod
    def from_ids(cls, caption_ids: Rows, ids: Rows, lengths: Rows, neighbour_ids: Rows) -> Neighbours:
        """From lists of ids; ids that are not among the captions are passed over, captions without a list have none.

        Args:
            caption_ids: (captions,) the ids in row order.
            ids, lengths: (lists,) whose neighbours a list holds, and how many.
            neighbour_ids: (neighbours of all lists,) list after list, each nearest first.
        """
        owners = np.repeat(_rows_of(caption_ids, ids), lengths)
        rows = _rows_of(caption_ids, neighbour_ids)
        known = (owners >= 0) & (rows >= 0)
        owners, rows = owners[known], rows[known]
        by_owner = np.argsort(owners, kind="stable")
        counts = np.bincount(owners, minlength=len(caption_ids))
        return cls(np.concatenate([[0], np.cumsum(counts)]), rows[by_owner].astype(np.int32))


def planner(settings: TrainSettings, corpus_rows: CorpusRows, labels: Artifact) -> Callable[[int], BatchPlan]:
    """What plans each epoch of a training: random or related batches, as the settings say.

    Raises:
        StoreError: the label set has no neighbours by the measure that related batches name.
    """
    caption_image, size, seed, batches = corpus_rows.caption_image, settings.batch_size, settings.seed, settings.batches
    if not isinstance(batches, RelatedBatches):
        return lambda epoch: batch_plan(caption_image, size, seed=seed, epoch=epoch)
    neighbours = Neighbours.read(labels, batches.measure, corpus_rows)
    return lambda epoch: related_plan(
        caption_image, size, neighbours, share=batches.share, most=batches.neighbours, seed=seed, epoch=epoch
    )


def related_plan(
    caption_image: npt.NDArray[np.integer[Any]],
    batch_size: int,
    neighbours: Neighbours,
    *,
    share: float,
    most: int,
    seed: int,
    epoch: int,
) -> BatchPlan:
    """Deals the captions of a split into batches of which part is groups of related images.

    What `batch_plan` promises holds: each caption once, no image twice in a batch, sizes, steps, and the captions left
    out; the plan depends on the arguments alone. `grouped` of the plan counts the captions in groups, fewer than
    `share` asks for where captions have few neighbours, or their neighbours' captions are all in other groups. Groups
    bring captions of an image together in time: they are not spread over the epoch as in a random plan.

    Takes memory for a few arrays of the captions' and of the neighbours' length.

    Args:
        caption_image: (captions,) row of each caption's image.
        batch_size: most captions a step, over all workers.
        neighbours: of the same captions.
        share: of each step, how much may stand in groups, from 0 (the random plan) to 1.
        most: neighbours that join a caption; a group has one caption more.
        seed, epoch: non-negative; each pair gives another plan.
    Raises:
        ShapeError: there are no captions, `neighbours` is of other captions, or a number is out of its range.
    """
    if not 0 <= share <= 1 or most < 1:
        raise ShapeError(f"share is {share} and most is {most}: expected a share from 0 to 1 and at least 1 neighbour.")
    if len(neighbours.starts) != len(caption_image) + 1:
        raise ShapeError(
            f"neighbours are of {len(neighbours.starts) - 1} captions, caption_image has {len(caption_image)}: "
            "expected those of the same split."
        )
    plan = batch_plan(caption_image, batch_size, seed=seed, epoch=epoch)
    # Loads the compiler, so not at import.
    from bcls_core.training.related_kernels import Deal, gather

    bits = np.random.PCG64(np.random.SeedSequence([seed, epoch, _STREAM]))
    sizes = np.diff(plan.offsets)
    step_of_slot = np.repeat(np.arange(plan.steps), sizes)
    image_of = np.unique(caption_image, return_inverse=True)[1].astype(np.int64)
    slot_of, step_of = (np.full(len(caption_image), -1, np.int64) for _ in range(2))
    slot_of[plan.caption_rows] = np.arange(plan.used)
    step_of[plan.caption_rows] = step_of_slot
    deal = Deal(
        captions=plan.caption_rows.copy(),
        offsets=plan.offsets,
        order=np.lexsort((draw(bits, plan.used), step_of_slot)),
        image_of=image_of,
        image_starts=np.concatenate([[0], np.cumsum(np.bincount(image_of))]),
        image_captions=np.argsort(image_of, kind="stable"),
        slot_of=slot_of,
        step_of=step_of,
        grouped=np.zeros(len(caption_image), np.bool_),
    )
    turns = np.argsort(draw(bits, plan.steps), kind="stable")
    quotas = np.floor(share * sizes).astype(np.int64)
    grouped = gather(deal, neighbours.starts, neighbours.rows, turns, quotas, most)
    image_rows = np.asarray(caption_image)[deal.captions].astype(np.int64)
    return replace(plan, image_rows=image_rows, caption_rows=deal.captions, grouped=int(grouped))


def _rows_of(caption_ids: Rows, ids: Rows) -> Rows:
    """The row of each id, -1 for one that is not there."""
    order = np.argsort(caption_ids, kind="stable")
    places = np.searchsorted(caption_ids, ids, sorter=order)
    rows = np.append(order, -1)[places]
    return np.where(np.append(caption_ids, 0)[rows] == ids, rows, -1)
