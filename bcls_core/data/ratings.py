"""Human ratings from files: how well a caption describes an image, and how alike two captions are.

Ratings of captions for images come in three formats, told apart by what is in the file, never by its name:

- *expert*, as Flickr8k publishes it: tab-separated, no header; image, caption, three ratings from 1 to 4. The rating is
  their mean.
- *crowd*, as Flickr8k publishes it: tab-separated, no header; image, caption, fraction of yes, number of yes, number of
  no. The rating is the fraction, made again from the two numbers, so that equal fractions are equal to the last bit.
- a table: CSV or TSV with a header that names `image_id`, `caption_id` and `rating`, for any dataset and any scale.

A row of crowd ratings has a fraction below 1 or nobody who said no, and neither is a rating from 1 to 4: no row can be
taken for the other kind. A caption is named `FILE#n`, the n-th caption of that image counted from 0, or by its id.

Ratings of two captions come as CSV with a header that names `caption_a`, `caption_b` and `human_score`, or `sentence1`,
`sentence2` and `score`. All files are UTF-8, plain or gzip.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bcls_core.data.text_table import columns_of, number_of, read_text, records_of, shown
from bcls_core.errors import InputError

_TABLE = ("image_id", "caption_id", "rating")
_CAPTION_PAIRS = (("caption_a", "caption_b", "human_score"), ("sentence1", "sentence2", "score"))
_FORMATS = (
    "Give a tab-separated file without a header whose rows hold image, FILE#n and three ratings from 1 to 4, or image, "
    "FILE#n, fraction of yes, number of yes and number of no; or a CSV or TSV whose header names image_id, caption_id "
    "and rating"
)
_LONGEST_NAME = 64  # it is part of names of metrics and of files
_ROUNDED = 0.0051  # a fraction may be printed with two decimals: 1 of 8 as 0.12
_KEY = re.compile(r"(?:(.+)#)?([0-9]{1,19})", re.DOTALL)


@dataclass(frozen=True, eq=False)
class Ratings:
    """How well captions describe images, as people judged it.

    Attributes:
        name: "expert", "crowd", or that of the file without its endings; letters, digits, `_`, `-` and `.` only.
        image_ids: (pairs,) the image of each rated pair.
        caption_keys: (pairs,) its caption, as the file names it: `FILE#n`, or the digits of an id.
        ratings: (pairs,) float64, finite, higher is more relevant. No pair is there twice.
        sha256: of the file as it lies on the disk, hex.
    """

    name: str
    image_ids: list[str]
    caption_keys: list[str]
    ratings: NDArray[np.float64]
    sha256: str


@dataclass(frozen=True, eq=False)
class ResolvedRatings:
    """Ratings whose image and caption are rows of one split.

    Attributes:
        image_rows, caption_rows: (pairs,) int64.
        ratings: (pairs,) float64.
        own: (pairs,) bool, True where the caption was written for the image.
        missing: number of ratings whose image or caption is not among the rows.
    """

    image_rows: NDArray[np.int64]
    caption_rows: NDArray[np.int64]
    ratings: NDArray[np.float64]
    own: NDArray[np.bool_]
    missing: int


@dataclass(frozen=True, eq=False)
class CaptionPairs:
    """How alike two captions are, as people judged it.

    Attributes:
        first, second: (pairs,) texts, character by character as in the file.
        scores: (pairs,) float64, finite, higher is more alike.
        sha256, name: as of `Ratings`.
    """

    first: list[str]
    second: list[str]
    scores: NDArray[np.float64]
    sha256: str
    name: str


def read_ratings(path: Path) -> Ratings:
    """Reads ratings of captions for images.

    A pair that is rated twice is refused, with equal ratings too: whether it is a repeated row or a second person, the
    pair would weigh double in every correlation.

    Raises:
        InputError: the file cannot be read, has another format or mixes two, holds no rating, one that is no finite
            number or out of its range, or a pair twice. Names file and line.
    """
    text, digest = read_text(path)
    start = next((line for line in io.StringIO(text) if line.strip()), "")
    if not start:
        raise InputError(f"{path}: empty. {_FORMATS}.")
    delimiter = "\t" if "\t" in start else ","
    if {cell.strip(' "\r\n') for cell in start.split(delimiter)} & set(_TABLE):
        name, rated = _name_of(path), _table(text, path, delimiter)
    elif delimiter == "\t":
        name, rated = _flickr8k(text, path)
    else:
        raise InputError(f"{path}: begins with {shown(start.strip())}. {_FORMATS}.")
    if not rated:
        raise InputError(f"{path}: a header and no rating. Add rows, or leave the file out.")
    first_line: dict[tuple[str, str], int] = {}
    for line, image_id, key, _ in rated:
        _check_pair(image_id, key, f"{path}: line {line}")
        earlier = first_line.setdefault((image_id, key), line)
        if earlier != line:
            raise InputError(
                f"{path}: line {line}: rates image {shown(image_id)} with caption {shown(key)}, as line {earlier} "
                "does. Keep one row a pair: the mean, if several people judged it."
            )
    _, image_ids, keys, ratings = zip(*rated, strict=True)
    return Ratings(name, [*image_ids], [*keys], np.array(ratings, dtype=np.float64), digest)


def resolve(
    ratings: Ratings,
    image_ids: Sequence[str],
    caption_ids: NDArray[np.int64],
    caption_image: NDArray[np.int64],
    incomplete: Collection[str] = (),
) -> ResolvedRatings:
    """The ratings whose image and caption are both rows of a split, in the order of the file.

    A key `FILE#n` is the n-th caption of that image, counted from 0 in the order of caption ids; one of digits only is
    a caption id.

    Args:
        image_ids: (images,) of the split, by row.
        caption_ids: (captions,) of the split, by row.
        caption_image: (captions,) the row of each caption's image.
        incomplete: ids of images that lost captions on the way from the source: counting would name the wrong caption,
            so no `FILE#n` of these resolves.

    Raises:
        InputError: no rating resolves, or two of them name one caption in two ways.
    """
    row_of_image = {image_id: row for row, image_id in enumerate(image_ids)}
    row_of_caption = {caption_id: row for row, caption_id in enumerate(caption_ids.tolist())}
    unsafe = set(incomplete)
    by_id = np.lexsort((caption_ids, caption_image))
    starts = np.searchsorted(caption_image[by_id], np.arange(len(image_ids) + 1))

    def caption_row(key: str) -> int | None:
        file, number = _parse_key(key)
        if file is None:
            return row_of_caption.get(number)
        image = row_of_image.get(file)
        if image is None or file in unsafe or number >= starts[image + 1] - starts[image]:
            return None
        return int(by_id[starts[image] + number])

    places = [
        (pair, row_of_image[image_id], caption)
        for pair, (image_id, key) in enumerate(zip(ratings.image_ids, ratings.caption_keys, strict=True))
        if image_id in row_of_image and (caption := caption_row(key)) is not None
    ]
    if not places:
        raise InputError(_nothing_resolves(ratings, image_ids, caption_ids))
    pairs, images, captions = np.array(places, dtype=np.int64).T
    _refuse_second_names(ratings, pairs, images, captions)
    missing = len(ratings.ratings) - len(pairs)
    return ResolvedRatings(images, captions, ratings.ratings[pairs], caption_image[captions] == images, missing)


def read_caption_pairs(path: Path) -> CaptionPairs:
    """Reads ratings of how alike two captions are; other columns are ignored, a pair may repeat.

    Raises:
        InputError: the file cannot be read, its header names neither set of columns, it holds no pair, an empty
            caption, or a score that is no finite number. Names file and line.
    """
    text, digest = read_text(path)
    first, second, scores = [], [], []
    for line, (a, b, score) in columns_of(text, path, ",", _CAPTION_PAIRS):
        if not a.strip() or not b.strip():
            raise InputError(f"{path}: line {line}: a caption is empty. Fill it in, or leave the row out.")
        first.append(a)
        second.append(b)
        scores.append(number_of(score, f"{path}: line {line}"))
    if not scores:
        raise InputError(f"{path}: a header and no pair. Add rows, or leave the file out.")
    return CaptionPairs(first, second, np.array(scores, dtype=np.float64), digest, _name_of(path))


_Rated = tuple[int, str, str, float]  # line, image id, caption key, rating


def _table(text: str, path: Path, delimiter: str) -> list[_Rated]:
    return [
        (line, image_id.strip(), key.strip(), number_of(rating, f"{path}: line {line}"))
        for line, (image_id, key, rating) in columns_of(text, path, delimiter, (_TABLE,))
    ]


def _flickr8k(text: str, path: Path) -> tuple[str, list[_Rated]]:
    """The kind of the first row, which all others must be of, and the ratings."""
    kinds: list[str] = []
    rated: list[_Rated] = []
    for line, fields in records_of(text, path, "\t", quoted=False):
        place = f"{path}: line {line}"
        if len(fields) != 5:
            raise InputError(f"{place}: {len(fields)} fields, expected 5. {_FORMATS}.")
        kind, rating = _flickr8k_rating([number_of(field, place) for field in fields[2:]], place)
        kinds.append(kind)
        if kind != kinds[0]:
            raise InputError(
                f"{place}: {kind} ratings ({' '.join(fields[2:])}) in a file that begins with {kinds[0]} ratings. "
                "Put each kind into a file of its own."
            )
        rated.append((line, fields[0], fields[1], rating))
    return kinds[0], rated


def _flickr8k_rating(values: list[float], place: str) -> tuple[str, float]:
    if all(value in (1, 2, 3, 4) for value in values):
        return "expert", sum(values) / 3
    fraction, yes, no = values
    counted = yes.is_integer() and no.is_integer() and yes >= 0 and no >= 0 and yes + no > 0
    if not counted or abs(fraction - yes / (yes + no)) > _ROUNDED:
        raise InputError(
            f"{place}: {' '.join(f'{value:g}' for value in values)} is neither three ratings from 1 to 4 nor a "
            f"fraction of yes that agrees with the numbers of yes and no. {_FORMATS}."
        )
    return "crowd", yes / (yes + no)


def _check_pair(image_id: str, key: str, place: str) -> None:
    if not image_id:
        raise InputError(f"{place}: no image. Name one, or leave the row out.")
    if not _KEY.fullmatch(key):
        raise InputError(f"{place}: caption {shown(key)}, expected FILE#n (n-th caption, from 0) or a caption id.")


def _parse_key(key: str) -> tuple[str | None, int]:
    """The image (None for an id) and the number of a caption key that was checked."""
    file, _, number = key.rpartition("#")
    return file or None, int(number)


def _refuse_second_names(
    ratings: Ratings, pairs: NDArray[np.int64], images: NDArray[np.int64], captions: NDArray[np.int64]
) -> None:
    first: dict[tuple[int, int], int] = {}
    for pair, place in zip(pairs.tolist(), zip(images.tolist(), captions.tolist(), strict=True), strict=True):
        earlier = first.setdefault(place, pair)
        if earlier != pair:
            names = " and ".join(shown(ratings.caption_keys[index]) for index in (earlier, pair))
            raise InputError(
                f"{ratings.name} ratings: {names} are one caption, rated twice for image "
                f"{shown(ratings.image_ids[pair])}. Keep one row a pair."
            )


def _nothing_resolves(ratings: Ratings, image_ids: Sequence[str], caption_ids: NDArray[np.int64]) -> str:
    held = f"image {shown(image_ids[0])}" if len(image_ids) else "no image"
    held += f" and caption id {caption_ids[0]}" if len(caption_ids) else " and no caption"
    return (
        f"{ratings.name} ratings: none of {len(ratings.ratings)} is of an image and a caption of this split. They rate "
        f"image {shown(ratings.image_ids[0])} with caption {shown(ratings.caption_keys[0])}; the split holds {held}. "
        "Are they of another dataset or split?"
    )


def _name_of(path: Path) -> str:
    stem = path.name.removesuffix(".gz").rsplit(".", 1)[0]
    return re.sub(r"[^A-Za-z0-9_.-]", "_", stem).strip(".")[:_LONGEST_NAME] or "ratings"
