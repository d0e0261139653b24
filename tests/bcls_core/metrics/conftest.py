"""Ground truths like the published ones of COCO 5K, CxC and ECCV Caption, small enough to count by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FILES = {"coco": "original", "cxc": "cxc", "eccv": "eccv"}
DIRECTIONS = {"i2t": "image_to_caption", "t2i": "caption_to_image"}


class SmallCoco:
    """The same files, and what they say as plain dictionaries of ids.

    Attributes:
        answers: `answers["cxc"]["i2t"][image id]` is a list of caption ids.
        image_of: image id of each caption id.
    """

    def __init__(self, folder: Path, generator: np.random.Generator, images_a_fold: int) -> None:
        self.folder = folder
        self.images = [int(i) for i in generator.choice(90_000, 5 * images_a_fold, replace=False)]
        lengths = generator.integers(1, 8, images_a_fold)
        owners = [image for f in range(5) for image in self._fold(f, images_a_fold, lengths, generator)]
        ids = generator.choice(90_000, len(owners) + 3, replace=False)
        self.captions = [int(i) for i in ids[: len(owners)]]
        self.strangers = [int(i) for i in ids[len(owners) :]]
        self.image_of = dict(zip(self.captions, owners, strict=True))
        own = {i: [c for c in self.captions if self.image_of[c] == i] for i in self.images}
        self.answers: dict[str, dict[str, dict[int, list[int]]]] = {
            "coco": {"i2t": own, "t2i": {c: [i] for c, i in self.image_of.items()}},
            "cxc": {"i2t": {}, "t2i": {}},
            "eccv": {"i2t": {}, "t2i": {}},
        }
        for name, share in (("cxc", 0.9), ("eccv", 0.5)):
            for direction, queries, gallery in (
                ("i2t", self.images, self.captions),
                ("t2i", self.captions, self.images),
            ):
                for query in [q for q in queries[1:] if generator.random() < share] + queries[:1]:
                    some = generator.choice(gallery, generator.integers(1, min(9, len(gallery) + 1)), replace=False)
                    self.answers[name][direction][query] = [int(answer) for answer in some]
        self.answers["eccv"]["i2t"][self.images[0]] += self.strangers[:2]
        self.write()

    def _fold(self, fold: int, size: int, lengths: Any, generator: np.random.Generator) -> list[int]:
        images = self.images[fold * size : (fold + 1) * size]
        return [int(i) for i in generator.permutation(np.repeat(images, generator.permutation(lengths)))]

    def write(self) -> None:
        np.save(self.folder / "coco_test_ids.npy", np.array(self.captions))
        for name, stem in FILES.items():
            for direction, suffix in DIRECTIONS.items():
                text = json.dumps(self.answers[name][direction])
                (self.folder / f"{stem}_{suffix}.json").write_text(text)

    def rows(self, generator: np.random.Generator) -> tuple[list[int], list[int], np.ndarray, np.ndarray]:
        """Images and captions in any order: their ids, `caption_ids`, and `caption_image`."""
        images = [int(i) for i in generator.permutation(self.images)]
        captions = [int(c) for c in generator.permutation(self.captions)]
        return images, captions, np.array(captions), np.array([images.index(self.image_of[c]) for c in captions])

    def rankings(self, scores: np.ndarray, images: list[int], captions: list[int]) -> tuple[dict, dict]:
        """Both directions as lists of ids, by (score descending, row ascending)."""
        i2t = {
            image: [captions[g] for g in sorted(range(len(captions)), key=lambda g, i=i: (-scores[i, g], g))]
            for i, image in enumerate(images)
        }
        t2i = {
            caption: [images[g] for g in sorted(range(len(images)), key=lambda g, c=c: (-scores[g, c], g))]
            for c, caption in enumerate(captions)
        }
        return i2t, t2i


@pytest.fixture(scope="session")
def small_coco(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., SmallCoco]:
    """`small_coco(seed, images_a_fold)`."""

    def make(seed: int = 0, images_a_fold: int = 2) -> SmallCoco:
        return SmallCoco(tmp_path_factory.mktemp("coco"), np.random.default_rng(seed), images_a_fold)

    return make


@pytest.fixture(scope="session")
def reference() -> Callable[[SmallCoco], Any]:
    """The package `eccv_caption` over the files of a small ground truth; over its own files if None."""
    package = pytest.importorskip("eccv_caption")

    published, other = package.Metrics(), package.Metrics()

    def over(small: SmallCoco | None) -> Any:
        metrics = published if small is None else other
        if small is not None:
            for name, stem in FILES.items():
                paths = [str(small.folder / f"{stem}_{suffix}.json") for suffix in DIRECTIONS.values()]
                getattr(metrics, f"set_{name}_gts")(*paths)
            metrics.coco_ids = np.load(small.folder / "coco_test_ids.npy")
        return metrics

    return over


@pytest.fixture(scope="session")
def published_rankings() -> Callable[..., tuple[dict, dict]]:
    """Rankings of the whole COCO 5K test in which an answer of COCO's comes early: views into one order a direction."""

    def make(truth: Any, seed: int = 0) -> tuple[dict, dict]:
        generator = np.random.default_rng(seed)
        found = []
        for queries, gallery, relevance in (
            (truth.images, truth.captions, truth.eccv.i2t),
            (truth.captions, truth.images, truth.eccv.t2i),
        ):
            order = generator.permutation(gallery.values)
            place = dict(zip(order.tolist(), range(len(order)), strict=True))
            twice = np.concatenate([order, order])
            coco = truth.coco.i2t if gallery is truth.captions else truth.coco.t2i
            rankings = {}
            for query, name in enumerate(queries.values.tolist()):
                positives = (relevance if relevance.total[query] and generator.random() < 0.5 else coco).positives
                own = positives.entries[positives.starts[query] : positives.starts[query + 1]]
                early = place[int(gallery.values[generator.choice(own)])] - int(generator.geometric(0.2)) + 1
                start = early % len(order)
                rankings[name] = twice[start : start + len(order)]
            found.append(rankings)
        return found[0], found[1]

    return make
