"""Compiled exchange of captions between the steps of a plan. Importing it loads the compiler."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bcls_core.compiled import compiled

Integers = NDArray[np.int64]

_TRIES = 16  # captions offered for one; more only find an exchange where steps hold most of the images


class Deal(NamedTuple):
    """Where the captions of a split stand; exchanges change `captions`, `slot_of`, `step_of` and `grouped` in place.

    Attributes:
        captions: (slots,) the caption in each slot.
        offsets: (steps + 1,) where each step begins.
        order: (slots,) the slots, step by step, in the order in which their captions may begin a group.
        image_of: (captions,) number of each caption's image.
        image_starts, image_captions: captions of each image: those of `i` from `image_starts[i]` on.
        slot_of, step_of: (captions,) -1 for a caption that is left out.
        grouped: (captions,) whether it stands in a group, which it then never leaves.
    """

    captions: Integers
    offsets: Integers
    order: Integers
    image_of: Integers
    image_starts: Integers
    image_captions: Integers
    slot_of: Integers
    step_of: Integers
    grouped: NDArray[np.bool_]


@compiled
def gather(
    deal: Deal, starts: Integers, neighbours: NDArray[np.int32], turns: Integers, quotas: Integers, most: int
) -> int:
    """Bring the neighbours of some captions into their steps, one group for each step a round.

    Args:
        starts, neighbours: neighbours of each caption, nearest first: those of `c` from `starts[c]` on.
        turns: (steps,) the order of the steps in a round.
        quotas: (steps,) captions that may stand in groups.
        most: neighbours in a group.
    Returns:
        Captions that stand in groups.
    """
    allowed = quotas.copy()
    next_seed = deal.offsets[:-1].copy()
    total = 0
    active = True
    while active:
        active = False
        for step in turns:
            while allowed[step] > 1 and next_seed[step] < deal.offsets[step + 1]:
                seed = deal.captions[deal.order[next_seed[step]]]
                next_seed[step] += 1
                if deal.grouped[seed]:
                    continue
                deal.grouped[seed] = True
                wanted = min(most, allowed[step] - 1)
                found = 0
                for place in range(starts[seed], starts[seed + 1]):
                    if found == wanted:
                        break
                    found += join(deal, neighbours[place], step)
                if found == 0:
                    deal.grouped[seed] = False
                    continue
                allowed[step] -= found + 1
                total += found + 1
                active = True
                break
    return total


@compiled
def join(deal: Deal, neighbour: int, step: int) -> int:
    """1 if a caption joined the step's group: the neighbour, or else another caption of its image; 0 if none could."""
    image = deal.image_of[neighbour]
    present = caption_in(deal, image, step)
    if present >= 0:
        if deal.grouped[present]:
            return 0
        deal.grouped[present] = True
        return 1
    if exchange(deal, neighbour, step):
        return 1
    for place in range(deal.image_starts[image], deal.image_starts[image + 1]):
        if exchange(deal, deal.image_captions[place], step):
            return 1
    return 0


@compiled
def exchange(deal: Deal, wanted: int, step: int) -> bool:
    """Whether the caption came into the step, whose group it joins, for one that its own step may hold."""
    origin = deal.step_of[wanted]
    if origin < 0 or deal.grouped[wanted]:
        return False
    tries = 0
    # From the end, so that captions which may soon begin a group are given away last.
    for place in range(deal.offsets[step + 1] - 1, deal.offsets[step] - 1, -1):
        given = deal.captions[deal.order[place]]
        if deal.grouped[given]:
            continue
        if caption_in(deal, deal.image_of[given], origin) < 0:
            slot = deal.slot_of[wanted]
            deal.captions[slot], deal.slot_of[given], deal.step_of[given] = given, slot, origin
            slot = deal.order[place]
            deal.captions[slot], deal.slot_of[wanted], deal.step_of[wanted] = wanted, slot, step
            deal.grouped[wanted] = True
            return True
        tries += 1
        if tries == _TRIES:
            break
    return False


@compiled
def caption_in(deal: Deal, image: int, step: int) -> int:
    """The caption of an image that a step holds; -1 if it holds none."""
    for place in range(deal.image_starts[image], deal.image_starts[image + 1]):
        if deal.step_of[deal.image_captions[place]] == step:
            return int(deal.image_captions[place])
    return -1
