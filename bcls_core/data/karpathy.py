"""Annotations in the Karpathy format (`dataset_coco.json`, `dataset_flickr30k.json`, `dataset_flickr8k.json`).

What is read of each image: `filename` (its id), `filepath` (optional: the folder it lies in), `split`, and its
`sentences` with `raw` and `sentid`. Damage to the *shape* of the file is an error that names the place; a *record* that
cannot be used becomes a reject with a reason (`bcls_core.data.records`).

A caption without `sentid` takes its id from the image's `sentids`; without those, the captions without an id are
numbered in file order from one above the largest id in the file.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

from bcls_core.data.records import ImageRecord, RecordCollector, is_caption_id
from bcls_core.data.rejects import Reject, printable
from bcls_core.data.schema import SPLITS
from bcls_core.errors import CorpusError

KNOWN_SPLITS: Mapping[str, str] = {**{split: split for split in SPLITS}, "restval": "train"}
"""What the splits of the published files mean; a recipe's `ingest.splits` adds to it."""

_GZIP_MAGIC = b"\x1f\x8b"
_SHAPE = 'a Karpathy file is {"images": [{"filename": …, "split": …, "sentences": [{"raw": …, "sentid": …}]}]}'
_KINDS = {str: "a string", list: "a list", dict: "an object", bool: "a boolean", int: "a number", float: "a number"}
_REQUIRED: tuple[tuple[str, type], ...] = (("filename", str), ("split", str), ("sentences", list))


@dataclass(frozen=True)
class Annotations:
    """A checked annotations file.

    Attributes:
        records: by split (train, val, test), then in the order of the file.
        rejects: rows of both sources that are in no record.
        input_images, input_captions: rows of the file.
        sha256: of the file as it lies on the disk, hex.
    """

    records: list[ImageRecord]
    rejects: list[Reject]
    input_images: int
    input_captions: int
    sha256: str


def read_karpathy(path: Path, *, splits: Mapping[str, str]) -> Annotations:
    """Reads, checks and orders an annotations file, plain or gzip.

    Args:
        splits: renames splits of the source, on top of `KNOWN_SPLITS`.
    Raises:
        CorpusError: the file cannot be read, is not JSON, has another shape, names an unknown split, or holds no image
            with a caption.
    """
    data = _read(path)
    images = _images(_parse(data, path), path.name)
    split_of = _splits_of(images, {**KNOWN_SPLITS, **splits}, path.name)
    free_ids = count(_largest_id(images) + 1)
    collector = RecordCollector()
    for index, (image, split) in enumerate(zip(images, split_of, strict=True)):
        place = f"{path.name}: images[{index}]"
        collector.add(image["filename"], split, _paths(image), list(_captions(image, free_ids, place)), place)
    if not collector.records:
        raise CorpusError(f"{path.name}: none of its {len(images)} images can be used ({_counted(collector.rejects)}).")
    records = sorted(collector.records, key=lambda record: SPLITS.index(record.split))
    return Annotations(
        records, collector.rejects, collector.input_images, collector.input_captions, sha256(data).hexdigest()
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{path}: the annotations cannot be read ({error}). Check ingest.annotations.") from error


def _parse(data: bytes, path: Path) -> Any:
    try:
        return json.loads(gzip.decompress(data) if data.startswith(_GZIP_MAGIC) else data)
    except (ValueError, RecursionError, OSError, EOFError, zlib.error) as error:
        hint = "ingest.annotations expects a Karpathy file such as dataset_coco.json, plain or gzip."
        raise CorpusError(f"{path}: not JSON ({error}). {hint}") from error


def _images(document: Any, name: str) -> list[dict[str, Any]]:
    """The entries of `images`, each with the keys that every entry needs."""
    if not isinstance(document, dict):
        raise CorpusError(f"{name}: found {_kind(document)} at the top level, expected an object: {_SHAPE}.")
    if "images" not in document:
        raise CorpusError(f'{name}: found no key "images" at the top level: {_SHAPE}.')
    images = document["images"]
    if not isinstance(images, list):
        raise CorpusError(f'{name}: "images" is {_kind(images)}, expected a list: {_SHAPE}.')
    if not images:
        raise CorpusError(f'{name}: "images" is empty. Give a file with at least one image.')
    for index, image in enumerate(images):
        _check_image(image, f"{name}: images[{index}]")
    return images


def _check_image(image: Any, place: str) -> None:
    if not isinstance(image, dict):
        raise CorpusError(f"{place} is {_kind(image)}, expected an object: {_SHAPE}.")
    for key, kind in _REQUIRED:
        if key not in image:
            raise CorpusError(f"{place} has no {key!r}: {_SHAPE}.")
        if not isinstance(image[key], kind):
            raise CorpusError(f"{place}.{key} is {_kind(image[key])}, expected {_KINDS[kind]}: {_SHAPE}.")
    if not isinstance(image.get("filepath", ""), str):
        raise CorpusError(f"{place}.filepath is {_kind(image['filepath'])}, expected a string, or leave it out.")


def _splits_of(images: list[dict[str, Any]], mapping: Mapping[str, str], name: str) -> list[str]:
    first_image: dict[str, int] = {}
    for index, image in enumerate(images):
        if image["split"] not in mapping:
            first_image.setdefault(image["split"], index)
    if not first_image:
        return [mapping[image["split"]] for image in images]
    split, index = next(iter(first_image.items()))
    image = images[index]
    number = next((image[key] for key in ("cocoid", "imgid") if isinstance(image.get(key), int)), index)
    advice = ", ".join(f"{_as_yaml(unknown)}: {_likely_split(unknown)}" for unknown in first_image)
    message = (
        f'{name}: image {number} ("{image["filename"]}") names split "{split}", expected one of {", ".join(mapping)}.\n'
        f"  Map it in the recipe: ingest.splits: {{{advice}}}"
    )
    raise CorpusError(printable(message))


def _likely_split(name: str) -> str:
    return next((split for split in ("train", "test") if split in name.lower()), "val")


def _as_yaml(name: str) -> str:
    return name if name.isidentifier() else json.dumps(name)


def _captions(image: dict[str, Any], free_ids: Iterator[int], place: str) -> Iterator[tuple[Any, Any]]:
    """(id, text) of each sentence as the file has them, missing ids filled in."""
    sentences, listed = image["sentences"], image.get("sentids")
    if not isinstance(listed, list) or len(listed) != len(sentences):
        listed = [None] * len(sentences)
    for position, (sentence, listed_id) in enumerate(zip(sentences, listed, strict=True)):
        if not isinstance(sentence, dict):
            yield f"{place}.sentences[{position}]", None
            continue
        caption_id = listed_id if sentence.get("sentid") is None else sentence["sentid"]
        yield (next(free_ids) if caption_id is None else caption_id), sentence.get("raw")


def _largest_id(images: list[dict[str, Any]]) -> int:
    """The largest usable caption id in the file, -1 if there is none."""
    found: list[Any] = []
    for image in images:
        listed = image.get("sentids")
        found += listed if isinstance(listed, list) else []
        found += [sentence.get("sentid") for sentence in image["sentences"] if isinstance(sentence, dict)]
    return max((caption_id for caption_id in found if is_caption_id(caption_id)), default=-1)


def _paths(image: dict[str, Any]) -> tuple[str, ...]:
    """Published archives keep `filepath` as a folder, flat copies of them do not: both are looked for."""
    filename, folder = image["filename"], image.get("filepath", "")
    return (f"{folder}/{filename}", filename) if folder else (filename,)


def _counted(rejects: Sequence[Reject]) -> str:
    return ", ".join(f"{rows} x {reason}" for reason, rows in Counter(r.reason.value for r in rejects).most_common())


def _kind(value: Any) -> str:
    return "null" if value is None else _KINDS[type(value)]
