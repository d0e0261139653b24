"""What an audit found: counts, shares and the worst examples, as row numbers of the corpus's splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bcls_core.audit.false_negatives import FalseNegatives
from bcls_core.audit.spread import SimilaritySpread
from bcls_core.data.rows import CorpusRows


@dataclass(frozen=True)
class Match:
    """A row of an evaluation split and what another split holds of it.

    Attributes:
        row, other: row numbers of captions or of images, `row` in the evaluation split.
        how: `equal`, `file`, `pixels`, `hash`, `features`, or the name of a measure.
        value: the similarity, or for `hash` the bits that differ.
    """

    row: int
    other: int
    how: str
    value: float


@dataclass(frozen=True)
class Overlap:
    """Captions or images of an evaluation split of which another split holds a near duplicate.

    Attributes:
        total: of the evaluation split.
        counts: by `how`, see `Match`; one row may count under several.
        affected: rows that count under any.
        worst: examples.
    """

    total: int
    counts: Mapping[str, int]
    affected: int
    worst: list[Match]

    @property
    def share(self) -> float:
        """Of the evaluation split's rows, 0 to 1."""
        return self.affected / self.total if self.total else 0.0


@dataclass(frozen=True)
class Leak:
    """What an evaluation split shares with a split that is used before it."""

    source: str
    into: str
    captions: Overlap
    images: Overlap


@dataclass(frozen=True)
class MeasureFindings:
    """One measure of the label set.

    Attributes:
        near: similarity from which captions of two splits count as near duplicates, None if there is none to count.
        false_negative: label from which a pair that nobody annotated counts as a likely false negative, likewise.
        spread: of the split `spread_split`.
        false_negatives: by split.
    """

    near: float | None
    false_negative: float | None
    spread_split: str
    spread: SimilaritySpread
    false_negatives: Mapping[str, FalseNegatives]


@dataclass(frozen=True)
class Audit:
    """All findings about one corpus and, if there was one, its label set."""

    rows: Mapping[str, CorpusRows]
    leaks: list[Leak]
    measures: Mapping[str, MeasureFindings]

    @property
    def worst_share(self) -> float:
        """The largest share of an evaluation split's captions or images that leak."""
        return max((overlap.share for leak in self.leaks for overlap in (leak.captions, leak.images)), default=0.0)

    def as_dict(self) -> dict[str, Any]:
        """The findings for programs; captions and images by id."""
        return {
            "splits": {
                name: {"images": rows.image_count, "captions": rows.caption_count} for name, rows in self.rows.items()
            },
            "leakage": [self._leak(leak) for leak in self.leaks],
            "worst_share": self.worst_share,
            "measures": {name: self._measure(found) for name, found in self.measures.items()},
        }

    def _leak(self, leak: Leak) -> dict[str, Any]:
        into, source = self.rows[leak.into], self.rows[leak.source]
        return {
            "from": leak.source,
            "into": leak.into,
            "captions": _overlap(leak.captions)
            | {
                "examples": [
                    {
                        "caption_id": int(into.caption_ids[match.row]),
                        "other_caption_id": int(source.caption_ids[match.other]),
                        "how": match.how,
                        "similarity": match.value,
                    }
                    for match in leak.captions.worst
                ]
            },
            "images": _overlap(leak.images)
            | {
                "examples": [
                    {
                        "image_id": image_id(into, match.row),
                        "other_image_id": image_id(source, match.other),
                        "how": match.how,
                        "value": match.value,
                    }
                    for match in leak.images.worst
                ]
            },
        }

    def _measure(self, found: MeasureFindings) -> dict[str, Any]:
        return {
            "near": found.near,
            "false_negative": found.false_negative,
            "split": found.spread_split,
            "percentiles": found.spread.percentiles(),
            "false_negatives": {
                split: {
                    "captions": part.captions,
                    "affected": part.affected,
                    "share": part.affected / part.captions if part.captions else 0.0,
                    "pairs": part.pairs,
                    "cut": part.cut,
                    "examples": [
                        {"caption_id": caption, "other_caption_id": other, "label": label}
                        for caption, other, label in part.worst
                    ],
                }
                for split, part in found.false_negatives.items()
            },
        }


def image_id(rows: CorpusRows, row: int) -> str:
    """Id of an image row; reads the ids of its shard."""
    for shard in rows.shards:
        numbers, _ = rows.rows_of_shard(shard)
        if len(numbers) and numbers[0] <= row <= numbers[-1]:
            return str(rows.corpus.read("images", shard, ["image_id"])["image_id"][row - int(numbers[0])].as_py())
    raise IndexError(row)


def _overlap(overlap: Overlap) -> dict[str, Any]:
    return {
        "total": overlap.total,
        "counts": dict(overlap.counts),
        "affected": overlap.affected,
        "share": overlap.share,
    }
