"""`bcls search`: an image or a text against the images or captions of a corpus, in all four directions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bcls_core.config import Split
from bcls_core.data.pixels import FORMATS, load_rgb
from bcls_core.data.rows import CorpusRows
from bcls_core.errors import ConfigError, InputError
from bcls_core.report import SearchHit, SearchPage, render_search_page
from bcls_core.store import Artifact
from bcls_core.students import Student, load_student
from bcls_core.training.batches import InputSource
from bcls_core.training.history import MODEL
from flows.context import Context
from flows.models import find_training
from flows.pages import write_page
from flows.progress import progress_bar
from flows.result import Grid, Result

_BATCH = 64


@dataclass(frozen=True)
class Query:
    """What is looked for, and among what."""

    text: str | None
    image: Path | None
    to: str
    top: int
    split: str


@dataclass(frozen=True)
class _Found:
    score: float
    rows: CorpusRows
    number: int


def run(context: Context, query: Query, *, model: str, corpus: str, html: Path | None) -> Result:
    """Encodes the gallery and the query with the model, and returns the best matches."""
    splits = _splits(query.split)
    training = find_training(context, model)
    gallery = context.store.resolve("corpus", corpus)
    student = load_student(training.local(MODEL)).eval()
    found = _best(student, gallery, query, splits)
    hits = [_hit(rank, item, query.to) for rank, item in enumerate(found, start=1)]
    if html is not None:
        picture = query.image.read_bytes() if query.image else None
        page = SearchPage(model, gallery.version, query.to, query.text, picture, hits)
        write_page(html, render_search_page(page))
    facts = {
        "model": model,
        "corpus": gallery.version,
        "to": query.to,
        "hits": [
            {"rank": hit.rank, "score": hit.score, "image_id": hit.image_id, "captions": list(hit.captions)}
            for hit in hits
        ],
    }
    rows = [(hit.rank, f"{hit.score:.3f}", hit.image_id, hit.captions[0] if hit.captions else "") for hit in hits]
    grid = Grid(("rank", "score", "image", "caption"), rows)
    hints = [f"page written to {html}"] if html is not None else []
    return Result(f"{query.to} for {query.text or query.image}", facts, (grid,), frozenset(facts), hints)


@torch.no_grad()
def _best(student: Student, corpus: Artifact, query: Query, splits: tuple[Split, ...]) -> list[_Found]:
    query_code, query_is_image = _encode_query(student, query)
    found: list[_Found] = []
    for split in splits:
        rows = CorpusRows(corpus, split)
        if rows.image_count == 0:
            continue
        codes = _encode_gallery(student, rows, query.to)
        gallery_is_image = query.to == "images"
        if query_is_image == gallery_is_image:
            scores = (codes @ query_code.T)[:, 0]
        elif query_is_image:
            scores = student.score(query_code, codes)[0]
        else:
            scores = student.score(codes, query_code)[:, 0]
        order = np.argsort(-scores.numpy(), kind="stable")[: query.top]
        found += [_Found(float(scores[number]), rows, int(number)) for number in order]
    if not found:
        raise InputError(f"corpus {corpus.version} has nothing in split {query.split}. Search another split, or all.")
    return sorted(found, key=lambda item: -item.score)[: query.top]


def _encode_query(student: Student, query: Query) -> tuple[Tensor, bool]:
    if query.image is None:
        return student.encode_captions(student.prepare_captions([query.text or ""])), False
    try:
        picture = load_rgb(query.image.read_bytes())
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f"--image {query.image}: cannot be read as an image of the formats {', '.join(FORMATS)}; it may be cut off."
        ) from error
    return student.encode_images(student.prepare_images([picture])), True


def _encode_gallery(student: Student, rows: CorpusRows, to: str) -> Tensor:
    count = rows.image_count if to == "images" else rows.caption_count
    source = InputSource(rows, student.preprocessor)
    codes = []
    with progress_bar(f"encoding {to}", total=count) as advance:
        for start in range(0, count, _BATCH):
            numbers = np.arange(start, min(start + _BATCH, count))
            if to == "images":
                codes.append(student.encode_images(source.images(numbers)))
            else:
                codes.append(student.encode_captions(source.captions(numbers)))
            advance(len(numbers))
    return torch.cat(codes) if codes else torch.zeros((0, 1))


def _hit(rank: int, found: _Found, to: str) -> SearchHit:
    rows = found.rows
    image_row = found.number if to == "images" else int(rows.caption_image[found.number])
    caption_rows = rows.captions_of(image_row) if to == "images" else np.array([found.number])
    return SearchHit(
        rank=rank,
        score=round(found.score, 6),
        image_id=str(rows.image_ids[image_row]),
        captions=rows.captions(caption_rows),
        image=rows.images(np.array([image_row]))[0] if rows.has_images else None,
    )


def _splits(name: str) -> tuple[Split, ...]:
    known: tuple[Split, ...] = get_args(Split)
    if name == "all":
        return known
    if name not in known:
        raise ConfigError(f"--split {name}: expected one of {', '.join(known)}, all.")
    return tuple(split for split in known if split == name)


if __name__ == "__main__":
    import sys

    from flows.cli import main

    main(["search", *sys.argv[1:]])
