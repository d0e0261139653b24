"""Which captions and images of the COCO 5K test answer each other: by COCO itself, CxC and ECCV Caption."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bcls_core.errors import InputError
from bcls_core.metrics.ranks import Integers, Positives

FOLDS = 5
_LIMIT = 10_000_000  # COCO's ids have six digits; a table over all of them stays small


class CocoIds:
    """Ids of images or of captions in a fixed order, and where each stands.

    Attributes:
        values: (n,) int64, distinct, in [0, 10,000,000).
    """

    def __init__(self, values: Integers) -> None:
        self.values = values
        # One slot more at either end, both of nobody, so that clipping sends there what is outside.
        self._places = np.full(int(values.max(initial=0)) + 3, -1, np.int32)
        self._places[values + 1] = np.arange(len(values))

    def __len__(self) -> int:
        return len(self.values)

    def find(self, ids: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
        """The place of each id in `values`, -1 for one that is not there."""
        return self._places.take(ids.astype(np.int64) + 1, mode="clip")


@dataclass(frozen=True, eq=False)
class Relevance:
    """What answers the images, or the captions, in one ground truth.

    Attributes:
        positives: for every image (caption) the places of the captions (images) that answer it; none where the ground
            truth does not ask.
        total: (queries,) int64, the number R of distinct answers, with those that are not in the gallery; 0 where the
            ground truth does not ask.
    """

    positives: Positives
    total: Integers

    @property
    def asked(self) -> Integers:
        """(n,) places of the queries that the ground truth asks."""
        return np.flatnonzero(self.total)


@dataclass(frozen=True, eq=False)
class Judgements:
    """Both directions of one ground truth, which need not be each other's transposes."""

    i2t: Relevance
    t2i: Relevance


@dataclass(frozen=True, eq=False)
class CocoGroundTruth:
    """The images and captions of the COCO 5K test and three ground truths over them.

    Everything but `images` and `captions` speaks of places in these two, not of ids.

    Attributes:
        images: (images,) ids, ascending; 5,000 in the published files.
        captions: (captions,) ids in the published order; 25,000.
        caption_image: (captions,) int64 place of each caption's image.
        image_fold, caption_fold: (images,) and (captions,) int64, which of the five COCO 1K galleries each is in: the
            folds are consecutive fifths of the captions with their images.
        coco: an image and the captions written for it.
        cxc: Crisscrossed Captions (Parekh et al. 2021), pairs that people judged to match, too.
        eccv: ECCV Caption (Chun et al. 2022), machine proposals that people accepted. The published file counts two
            captions among the answers that are in no gallery; nobody can retrieve them.
    """

    images: CocoIds
    captions: CocoIds
    caption_image: Integers
    image_fold: Integers
    caption_fold: Integers
    coco: Judgements
    cxc: Judgements
    eccv: Judgements

    @classmethod
    def load(cls, folder: Path | None = None) -> CocoGroundTruth:
        """Read the files that the package `eccv_caption` publishes.

        Args:
            folder: holds `coco_test_ids.npy` and `{original,cxc,eccv}_{image_to_caption,caption_to_image}.json`. If
                None, the data of the installed package `eccv_caption`, whose code is not run, else
                `$BCLS_DATA/data/eccv_caption`.

        Raises:
            InputError: there is no such folder, or a file is missing, damaged, or contradicts the others.
        """
        found = _published() if folder is None else Path(folder)
        captions = _test_captions(found)
        by_image = _Answers.read(found / "original_image_to_caption.json")
        by_caption = _Answers.read(found / "original_caption_to_image.json")
        images = CocoIds(np.unique(by_image.query))
        caption_image = _images_of(by_image, by_caption, images, captions)
        caption_fold = np.arange(len(captions)) // (len(captions) // FOLDS)
        image_fold = np.zeros(len(images), np.int64)
        image_fold[caption_image] = caption_fold
        if (image_fold[caption_image] != caption_fold).any() or len(set(np.bincount(image_fold))) > 1:
            raise InputError(
                f"{found / 'coco_test_ids.npy'}: its consecutive fifths do not hold equally many images with all their "
                f"captions, as the five folds of COCO 1K do. {_AGAIN}"
            )
        read = {}
        for name in ("cxc", "eccv"):
            by_image_too = _Answers.read(found / f"{name}_image_to_caption.json")
            by_caption_too = _Answers.read(found / f"{name}_caption_to_image.json")
            read[name] = Judgements(by_image_too.over(images, captions), by_caption_too.over(captions, images))
        coco = Judgements(by_image.over(images, captions), by_caption.over(captions, images))
        return cls(images, captions, caption_image, image_fold, caption_fold, coco, read["cxc"], read["eccv"])

    @property
    def sha256(self) -> str:
        """Of all that determines a metric, hex."""
        total = sha256()
        arrays = [self.images.values, self.captions.values, self.caption_image, self.caption_fold]
        for judgements in (self.coco, self.cxc, self.eccv):
            for relevance in (judgements.i2t, judgements.t2i):
                arrays += [relevance.positives.starts, relevance.positives.entries, relevance.total]
        for array in arrays:
            total.update(np.ascontiguousarray(array, np.int64).tobytes())
            total.update(str(array.shape).encode())
        return total.hexdigest()


GroundTruth = CocoGroundTruth | Path | None
"""A loaded ground truth, the folder of one, or None for where `CocoGroundTruth.load` looks by itself."""


def ground_truth_of(given: GroundTruth) -> CocoGroundTruth:
    """What was given, loaded if need be; raises InputError as `CocoGroundTruth.load` does."""
    return given if isinstance(given, CocoGroundTruth) else CocoGroundTruth.load(given)


_AGAIN = "Take the files of the package eccv_caption as they are published."


def _published() -> Path:
    spec = importlib.util.find_spec("eccv_caption")
    candidates = [Path(part) / "data" for part in (spec.submodule_search_locations or ()) if part] if spec else []
    if os.environ.get("BCLS_DATA"):
        candidates.append(Path(os.environ["BCLS_DATA"]) / "data" / "eccv_caption")
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise InputError(
        "ground truth of COCO 5K, CxC and ECCV Caption: not found. `pip install eccv-caption`, or name the folder of "
        "its data files; $BCLS_DATA/data/eccv_caption is looked at, too."
    )


@dataclass(frozen=True, eq=False)
class _Answers:
    """One file: (pairs,) ids of queries and of what answers them, each pair once, sorted."""

    path: Path
    query: Integers
    answer: Integers

    @classmethod
    def read(cls, path: Path) -> _Answers:
        try:
            # Pairs, since a dictionary would drop a query that is there twice.
            table = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=tuple)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}). {_AGAIN}") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: not JSON ({error}). {_AGAIN}") from error
        if not isinstance(table, tuple) or not table:
            raise InputError(f"{path}: expected an object of ids with the lists of ids that answer them. {_AGAIN}")
        for key, answers in table:
            if not (key.isascii() and key.isdecimal() and isinstance(answers, list) and answers):
                raise InputError(f"{path}: entry {key!r}, expected a whole number with a list of ids. {_AGAIN}")
        keys = _ids(path, [int(key[:20]) for key, _ in table])
        if len(np.unique(keys)) < len(keys):
            raise InputError(f"{path}: an id asks twice. {_AGAIN}")
        flat = _ids(path, [answer for _, answers in table for answer in answers])
        query = np.repeat(keys, [len(answers) for _, answers in table])
        distinct = np.unique(query * _LIMIT + flat)
        return cls(path, distinct // _LIMIT, distinct % _LIMIT)

    def over(self, queries: CocoIds, gallery: CocoIds) -> Relevance:
        """In places of `queries` and `gallery`; raises InputError where the file is of another id space."""
        query = queries.find(self.query)
        if (query < 0).any():
            raise InputError(
                f"{self.path}: {self.query[query < 0][0]} asks, but is not in the COCO 5K test of the files beside it. "
                f"{_AGAIN}"
            )
        entry = gallery.find(self.answer)
        there = entry >= 0
        positives = Positives.of(query[there], entry[there], len(queries))
        total = np.bincount(query, minlength=len(queries))
        unanswered = (total > 0) & (np.diff(positives.starts) == 0)
        if unanswered.any():
            raise InputError(
                f"{self.path}: {int(unanswered.sum())} queries have no answer among the COCO 5K test, "
                f"{queries.values[unanswered][0]} for one. {_AGAIN}"
            )
        return Relevance(positives, total)


def _ids(path: Path, values: list[Any]) -> Integers:
    wrong = [value for value in values if type(value) is not int or not 0 <= value < _LIMIT]
    if wrong:
        raise InputError(f"{path}: {str(wrong[0])[:40]} where an id is due, a whole number below {_LIMIT:,}. {_AGAIN}")
    return np.array(values, np.int64)


def _test_captions(folder: Path) -> CocoIds:
    path = folder / "coco_test_ids.npy"
    try:
        # Mapped, since a header may claim more than there is memory for.
        ids: ArrayLike = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}). {_AGAIN}") from error
    except Exception as error:  # a damaged header is evaluated, and can fail in any way
        raise InputError(f"{path}: not an array of numpy's ({type(error).__name__}: {error}). {_AGAIN}") from error
    if not isinstance(ids, np.ndarray) or ids.ndim != 1 or ids.dtype.kind not in "iu" or not len(ids):
        raise InputError(f"{path}: expected a row of caption ids. {_AGAIN}")
    values = _ids(path, ids.tolist())
    if len(np.unique(values)) < len(values) or len(values) % FOLDS:
        raise InputError(f"{path}: {len(values)} ids, expected five folds of distinct captions. {_AGAIN}")
    return CocoIds(values)


def _images_of(by_image: _Answers, by_caption: _Answers, images: CocoIds, captions: CocoIds) -> Integers:
    """(captions,) place of each caption's image."""
    if not np.array_equal(by_caption.query, np.sort(captions.values)):
        raise InputError(f"{by_caption.path}: not one image for each caption of coco_test_ids.npy. {_AGAIN}")
    swapped = np.lexsort((by_caption.query, by_caption.answer))
    if not (
        np.array_equal(by_caption.answer[swapped], by_image.query)
        and np.array_equal(by_caption.query[swapped], by_image.answer)
    ):
        raise InputError(f"{by_image.path}: disagrees with {by_caption.path.name}. {_AGAIN}")
    caption_image = np.empty(len(captions), np.int64)
    caption_image[captions.find(by_caption.query)] = images.find(by_caption.answer)
    return caption_image
