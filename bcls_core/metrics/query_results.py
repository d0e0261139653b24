"""What each query of one gallery earned from one model: what metrics, intervals and comparisons are made of."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bcls_core.errors import InputError
from bcls_core.metrics.human import RatedPairs, per_image_correlations
from bcls_core.metrics.replicates import Mean, Median, Spearman, Statistic, Total
from bcls_core.metrics.resamples import ImageResamples
from bcls_core.metrics.retrieval import TOP
from bcls_core.metrics.significance import Difference, Interval, differences, intervals

Values = NDArray[np.float64]
Rows = NDArray[np.int64]

RESAMPLES = 2000
_RANK = "rank"
_EXCLUDED, _MISSING, _TEXTS, _FILES, _RELEVANCES = b"excluded", b"missing", b"texts", b"files", b"relevances"


@dataclass(frozen=True, eq=False)
class QueryResults:
    """One model's results on one gallery, query by query.

    Columns are named as the metrics made of them: `t2i/rank` (from 0) gives `t2i/r1`, `t2i/r5`, `t2i/r10` in percent,
    `t2i/medr` and `t2i/meanr`; any other column its mean. NaN leaves a query out.

    Attributes:
        image_ids: (images,) of the gallery, by row.
        caption_ids: (captions,) int64, by row.
        caption_image: (captions,) int64, the row of each caption's image.
        texts: sha256 of the captions in this order, hex: ids alone do not tell corpora apart.
        relevances: digest of what each agreement is measured against, by the prefix of its columns (`label/MEASURE`).
        per_image: columns (images,) of what images ask.
        per_caption: columns (captions,) of what captions ask.
        rated: per set of image-caption ratings the rated pairs; their `image` is a row.
        alike: per set of caption-caption ratings (STS) the cosines and ratings; each pair is its own unit.
    """

    image_ids: Sequence[str]
    caption_ids: Rows
    caption_image: Rows
    texts: str
    relevances: Mapping[str, str]
    per_image: Mapping[str, Values]
    per_caption: Mapping[str, Values]
    rated: Mapping[str, RatedPairs] = field(default_factory=dict)
    alike: Mapping[str, RatedPairs] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """All metrics by name, and how many queries or pairs each is made of; what is not defined is left out."""
        result = {name: part.estimate for _, family in self._families().values() for name, part in family.items()}
        for columns in (self.per_image, self.per_caption):
            for name, values in columns.items():
                asked = int((~np.isnan(values)).sum())
                if name.endswith(_RANK):
                    prefix = name.removesuffix(_RANK)
                    result |= {f"{prefix}queries": asked, f"{prefix}excluded": len(values) - asked}
                else:
                    result[f"{name}_queries"] = asked
        for name, pairs in self.rated.items():
            counts = {"pairs": len(pairs.scores), "excluded": pairs.excluded, "missing": pairs.missing}
            counts["images"] = len(np.unique(pairs.image))
            result |= {f"human/{name}/{key}": count for key, count in counts.items()}
        result |= {f"sts/{name}/pairs": len(pairs.scores) for name, pairs in self.alike.items()}
        return {name: float(value) for name, value in result.items() if not np.isnan(value)}

    def intervals(self, *, confidence: float = 0.95) -> dict[str, Interval]:
        """Of each metric; images are drawn with all their queries. None where all queries belong to one image."""
        return recipe_intervals([self], confidence=confidence)

    def _families(self) -> dict[str, tuple[int, dict[str, Statistic]]]:
        """What is drawn from how many units: everything from images, pairs of captions each from its own."""
        families = {"images": (len(self.image_ids), dict(self._of_images()))}
        for name, pairs in self.alike.items():
            own = np.arange(len(pairs.scores))
            figure: Statistic = Spearman(_order(pairs.scores), pairs.ratings, own)
            families[f"sts/{name}"] = len(own), {f"sts/{name}/spearman": figure}
        return families

    def _of_images(self) -> Iterator[tuple[str, Statistic]]:
        recalls: dict[str, list[Statistic]] = {}
        own = np.arange(len(self.image_ids))
        for columns, image in ((self.per_image, own), (self.per_caption, self.caption_image)):
            for name, values in columns.items():
                if np.isnan(values).all():
                    continue
                if not name.endswith(_RANK):
                    yield name, Mean(values, image)
                    continue
                prefix = name.removesuffix(_RANK)
                for k in TOP:
                    recall = Mean(np.where(np.isnan(values), np.nan, 100.0 * (values < k)), image)
                    recalls.setdefault(prefix, []).append(recall)
                    yield f"{prefix}r{k}", recall
                yield f"{prefix}medr", Median(values + 1, image)
                yield f"{prefix}meanr", Mean(values + 1, image)
        for prefix, parts in recalls.items():
            other = recalls.get(prefix.removesuffix("i2t/") + "t2i/")
            if prefix.endswith("i2t/") and other:
                yield f"{prefix.removesuffix('i2t/')}rsum", Total([*parts, *other])
        for name, pairs in self.rated.items():
            if not len(pairs.scores):
                continue
            yield f"human/{name}/spearman", Spearman(_order(pairs.scores), pairs.ratings, pairs.image)
            images, correlations = per_image_correlations(pairs)
            if not np.isnan(correlations).all():
                yield f"human/{name}/per_image_spearman", Mean(correlations, images)

    def to_files(self) -> dict[str, bytes]:
        """Parquet files by name, for `from_files`."""
        tables = {
            "images": _table({"image_id": list(self.image_ids), **self.per_image}),
            "captions": _table(
                {"caption_id": self.caption_ids, "image_row": self.caption_image, **self.per_caption},
            ).replace_schema_metadata({_TEXTS: self.texts.encode()}),
        }
        for kind, sets in (("rated", self.rated), ("alike", self.alike)):
            for name, pairs in sets.items():
                columns = {"score": pairs.scores, "rating": pairs.ratings, "image_row": pairs.image}
                metadata = {_EXCLUDED: str(pairs.excluded).encode(), _MISSING: str(pairs.missing).encode()}
                tables[f"{kind}-{name}"] = _table(columns).replace_schema_metadata(metadata)
        # Whoever reads them knows by this whether one was lost.
        contents = {
            _FILES: json.dumps(sorted(tables)).encode(),
            _RELEVANCES: json.dumps(dict(self.relevances)).encode(),
        }
        tables["images"] = tables["images"].replace_schema_metadata(contents)
        return {f"{name}.parquet": _packed(table) for name, table in tables.items()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> QueryResults:
        """Raises InputError where files are missing or are not what `to_files` makes."""
        try:
            tables = {
                name.removesuffix(".parquet"): pq.read_table(pa.BufferReader(data)) for name, data in files.items()
            }
            if sorted(tables) != json.loads(tables["images"].schema.metadata[_FILES]):
                raise ValueError("a file is missing, or there is one too many")
            images, captions = tables.pop("images"), tables.pop("captions")
            pairs: dict[str, dict[str, RatedPairs]] = {"rated": {}, "alike": {}}
            for name, table in tables.items():
                kind, _, of = name.partition("-")
                score, rating, row = (table[column].to_numpy() for column in ("score", "rating", "image_row"))
                counts = (int(table.schema.metadata[key]) for key in (_EXCLUDED, _MISSING))
                pairs[kind][of] = RatedPairs(score, rating, row, *counts)
            return cls(
                images["image_id"].to_pylist(),
                captions["caption_id"].to_numpy(),
                captions["image_row"].to_numpy(),
                captions.schema.metadata[_TEXTS].decode(),
                json.loads(images.schema.metadata[_RELEVANCES]),
                {name: images[name].to_numpy() for name in images.column_names[1:]},
                {name: captions[name].to_numpy() for name in captions.column_names[2:]},
                **pairs,
            )
        except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise InputError(
                f"query results: {', '.join(sorted(files)) or 'no files'}; cannot be read ({error!r}). Evaluate again."
            ) from error


def recipe_intervals(seeds: Sequence[QueryResults], *, confidence: float = 0.95) -> dict[str, Interval]:
    """Of every metric that all have: the mean over the trainings of one recipe by seed, and its interval.

    Raises:
        InputError: they are not of one gallery.
    """
    result: dict[str, Interval] = {}
    for draws, statistics in _common([seeds]):
        of_one = {name: parts for name, (parts,) in statistics.items()}
        result |= intervals(of_one, resamples=draws, confidence=confidence)
    return {name: found for name, found in result.items() if not np.isnan(found.low)}


def compare(
    first: Sequence[QueryResults], second: Sequence[QueryResults], *, confidence: float = 0.95
) -> dict[str, Difference]:
    """Second minus first of every metric that all have; each side is one or more trainings of one recipe by seed.

    Raises:
        InputError: they are not of one gallery, or rated pairs differ.
    """
    result: dict[str, Difference] = {}
    for draws, statistics in _common([first, second]):
        of_two = {name: (one, other) for name, (one, other) in statistics.items()}
        result |= differences(of_two, resamples=draws, confidence=confidence)
    return {name: found for name, found in result.items() if not np.isnan(found.low)}


def _common(
    groups: Sequence[Sequence[QueryResults]],
) -> Iterator[tuple[ImageResamples, dict[str, list[list[Statistic]]]]]:
    """Per kind of unit the draws, and the statistics that all results have and that vary, by name, group and seed."""
    everyone = [results for group in groups for results in group]
    for other in everyone[1:]:
        require_same_gallery(everyone[0], other)
    families = [[results._families() for results in group] for group in groups]
    other_relevances = tuple(f"{prefix}/" for prefix in incomparable(everyone))
    for family, (units, names) in families[0][0].items():
        found = {
            name: [[statistics[family][1].get(name) for statistics in group] for group in families]
            for name in names
            if not name.startswith(other_relevances)
        }
        known = {
            name: [[part for part in group if part is not None and len(part.asked) > 1] for group in of_groups]
            for name, of_groups in found.items()
        }
        complete = {
            name: parts for name, parts in known.items() if list(map(len, parts)) == [len(group) for group in groups]
        }
        if complete:
            yield ImageResamples(units, RESAMPLES), complete


def incomparable(everyone: Sequence[QueryResults]) -> list[str]:
    """Prefixes of agreements that are not measured against the same labels, or truth, everywhere."""
    prefixes = sorted({prefix for results in everyone for prefix in results.relevances})
    return [prefix for prefix in prefixes if len({results.relevances.get(prefix) for results in everyone}) > 1]


def require_same_gallery(first: QueryResults, second: QueryResults) -> None:
    """Refuses what cannot be paired.

    Raises:
        InputError: other images, captions or rated pairs; says how many.
    """
    for what, ours, theirs in (
        ("images", first.image_ids, second.image_ids),
        ("captions", first.caption_ids.tolist(), second.caption_ids.tolist()),
        ("images of captions", first.caption_image.tolist(), second.caption_image.tolist()),
    ):
        if list(ours) != list(theirs):
            common = len(set(ours) & set(theirs))
            raise InputError(
                f"{what}: galleries of {len(ours)} and {len(theirs)}, of which {common} are in both"
                f"{', in another order' if common == len(ours) == len(theirs) else ''}. "
                "Models are compared on one gallery: evaluate both on the same corpus and split."
            )
    if first.texts != second.texts:
        raise InputError(
            "captions: galleries with the same ids and other texts. Models are compared on one gallery: evaluate both "
            "on the same corpus and split."
        )
    for ours, theirs in ((first.per_image, second.per_image), (first.per_caption, second.per_caption)):
        for name in ours.keys() & theirs.keys():
            if name.endswith(_RANK) and not np.array_equal(np.isnan(ours[name]), np.isnan(theirs[name])):
                raise InputError(f"{name}: not asked by the same queries. Evaluate both with the same references.")
    for kind in ("rated", "alike"):
        one, other = getattr(first, kind), getattr(second, kind)
        if sorted(one) != sorted(other):
            raise InputError(f"ratings: {sorted(one)} and {sorted(other)}. Evaluate both with the same ratings.")
        for name, pairs in one.items():
            same = np.array_equal(pairs.ratings, other[name].ratings) and np.array_equal(pairs.image, other[name].image)
            if not same:
                raise InputError(f"ratings {name}: not the same pairs. Evaluate both with the same file.")


def _order(scores: Values) -> Values:
    """Finite numbers in the same order, ties kept: a rank correlation sees no more."""
    return np.unique(scores, return_inverse=True)[1].astype(np.float64)


def _table(columns: Mapping[str, Any]) -> pa.Table:
    return pa.table({name: pa.array(values) for name, values in columns.items()})


def _packed(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
