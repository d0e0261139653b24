"""What image teachers say: the worker that writes a label set's image embeddings, and what training reads of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bcls_core.config import (
    DescriptorTeacherSettings,
    FeatureTeacherSettings,
    ImageTeacherSettings,
    LabelSettings,
    VisionTeacherSettings,
)
from bcls_core.data.rows import CorpusRows
from bcls_core.data.schema import IMAGES_PER_ROW_GROUP
from bcls_core.errors import CorpusError, ModelError, StoreError
from bcls_core.similarity.corpus_splits import splits_of
from bcls_core.similarity.cosine import cosine_matrix
from bcls_core.similarity.embedding import EmbeddingCosine
from bcls_core.similarity.label_tables import (
    IMAGE_NEIGHBOURS_SCHEMA,
    IMAGE_SOFT_LABELS_SCHEMA,
    image_embeddings_table,
    image_regions_table,
)
from bcls_core.similarity.labels import LabelWorker, Piece, Record
from bcls_core.similarity.measure import FloatArray, Found, IntArray
from bcls_core.similarity.row_book import DenseBook, dense_rows
from bcls_core.similarity.soft_labels import TailSample
from bcls_core.store import Artifact
from bcls_core.teachers.descriptors import Descriptors, descriptors_fingerprint
from bcls_core.teachers.embedding_cache import EmbeddingCache
from bcls_core.teachers.image import ImageTeacher, Rows, Teacher, image_teacher_fingerprint, unit_rows
from bcls_core.teachers.imported import ImportedFeatures, imported_fingerprint

IMAGE_EMBEDDINGS, IMAGE_NEIGHBOURS, IMAGE_REGIONS = "image_embeddings", "image_neighbours", "image_regions"
IMAGE_SOFT_LABELS = "image_soft_labels"
Search = Callable[[IntArray], Found]

_PIECE = 512  # pictures encoded between two writes to the cache
_PIECE_NUMBERS = 4_000_000  # and as many numbers of them, where each has many


class RepresentImages(LabelWorker):
    """Embeddings of one shard's images by one teacher, row by row as in the corpus.

    Equal pictures are encoded once, in this job and in later ones: embeddings are cached by the pictures' sha256.
    """

    def __init__(
        self,
        root: str,
        corpus: str,
        labels: str,
        teacher: str,
        settings: ImageTeacherSettings,
        device: str = "cpu",
        earlier: str | None = None,
        fingerprint: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            fingerprint: of the teacher, as the label set's version has it; not compared if None.
        """
        super().__init__(root, corpus, labels, earlier)
        self._name = teacher
        self._settings = settings
        self._device = device
        if fingerprint is not None and dict(fingerprint) != self._fingerprint:
            raise ModelError(
                f"label.image_teachers.{teacher}: its files are not, on this machine, what they were when the job was "
                "begun. Give all machines the same files, and run it again: what changed becomes another version."
            )

    def __call__(self, piece: Piece) -> Record:
        shard = piece["shard"]
        images = self._corpus.read("images", shard, ["image_id", "split", "sha256"])
        if isinstance(self._settings, FeatureTeacherSettings):
            rows = self._imported(shard, images["image_id"].to_pylist())
        else:
            rows = self._encoded(shard, images)
        if self._has_regions:
            assert isinstance(self._teacher, ImageTeacher)  # noqa: S101 - as the settings say
            rows, regions = self._teacher.split_regions(rows)
            table = image_regions_table(images["image_id"], images["split"], regions)
            self._draft.write_table(f"{IMAGE_REGIONS}/{self._name}", shard, table, row_group_size=IMAGES_PER_ROW_GROUP)
        table = image_embeddings_table(images["image_id"], images["split"], rows)
        self._draft.write_table(f"{IMAGE_EMBEDDINGS}/{self._name}", shard, table)
        return {"rows": table.num_rows}

    def _imported(self, shard: int, names: list[str]) -> Rows:
        if self._features is not None:
            return self._features.encode(names)
        column = self._corpus.read("features", shard, ["features"]).column("features").combine_chunks()
        values = column.flatten().to_numpy(zero_copy_only=False)
        wide = values.reshape(len(names), column.type.list_size).astype(np.float64)
        return unit_rows(wide, names, f"corpus {self._corpus.version} holds")

    @cached_property
    def _features(self) -> ImportedFeatures | None:
        """None where they are the corpus's own."""
        settings = self._settings
        assert isinstance(settings, FeatureTeacherSettings)  # noqa: S101 - nothing else is imported
        return None if settings.file is None else ImportedFeatures(settings.file, settings.ids)

    def _encoded(self, shard: int, images: pa.Table) -> Rows:
        names = images["image_id"].to_pylist()
        digests = [bytes.fromhex(digest) for digest in images["sha256"].to_pylist()]

        def make(places: IntArray) -> Rows:
            # Read when something is to be encoded, and not to learn that nothing is.
            pictures = self._corpus.read("images", shard, ["image"]).column("image")
            return self._teacher.encode([pictures[place].as_py() for place in places], [names[p] for p in places])

        piece = max(1, _PIECE_NUMBERS // self._teacher.dimension) if self._has_regions else _PIECE
        rows = self._cache.rows(digests, make, piece=piece)
        return rows if rows.shape[1] else np.empty((0, self._teacher.dimension), dtype=np.float16)

    @property
    def _has_regions(self) -> bool:
        return isinstance(self._settings, VisionTeacherSettings) and self._settings.regions

    @cached_property
    def _cache(self) -> EmbeddingCache:
        return EmbeddingCache(self._store.filesystem, self._fingerprint)

    @cached_property
    def _fingerprint(self) -> dict[str, Any]:
        return image_fingerprint(self._settings)

    @cached_property
    def _teacher(self) -> Teacher:
        """Loaded when the cache lacks a picture."""
        settings = self._settings
        if isinstance(settings, DescriptorTeacherSettings):
            return Descriptors()
        assert not isinstance(settings, FeatureTeacherSettings)  # noqa: S101 - these encode nothing
        teacher = ImageTeacher(
            settings.model,
            revision=settings.revision,
            pooling=settings.pooling,
            device=self._device,
            regions=settings.regions,
        )
        if teacher.fingerprint != self._fingerprint:
            raise ModelError(
                f"model {settings.model!r} changed while the job was at work. Run it again: it becomes another version."
            )
        return teacher


class SearchImages(LabelWorker):
    """For each image of some shards of a split the k most similar other images of it, and its soft labels.

    Written are the shards' parts of `image_neighbours/TEACHER` and, if the settings say so, of
    `image_soft_labels/TEACHER`.
    """

    def __init__(
        self, root: str, corpus: str, labels: str, teacher: str, settings: LabelSettings, earlier: str | None = None
    ) -> None:
        super().__init__(root, corpus, labels, earlier)
        self._name = teacher
        self._settings = settings
        self._split_of = lru_cache(maxsize=1)(self._read_split)

    def __call__(self, piece: Piece) -> Record:
        shards, k, soft = piece["shards"], self._settings.neighbours, self._settings.soft_labels
        names, rows, search, tail = self._split_of(self._of_shard[shards[0]])
        for shard in shards:
            own = self._part(shard)["image_id"]
            places = pc.index_in(own, value_set=names).to_numpy().astype(np.int64)
            scores, found = search(places) if len(places) else (np.empty((0, k), np.float32), np.empty((0, k), int))
            table = _lists_of_images(own, names, IMAGE_NEIGHBOURS_SCHEMA, found, scores)
            self._draft.write_table(f"{IMAGE_NEIGHBOURS}/{self._name}", shard, table)
            if soft is not None:
                probs, mass = np.empty((0, k + 1), np.float32), np.empty(0, np.float32)
                if len(places):
                    probs, mass = tail.distributions(places, scores, found, soft.temperature)
                both = np.concatenate([places[:, None], found], axis=1)
                table = _lists_of_images(own, names, IMAGE_SOFT_LABELS_SCHEMA, both, probs, pa.array(mass))
                self._draft.write_table(f"{IMAGE_SOFT_LABELS}/{self._name}", shard, table)
        return {"rows": len(rows)}

    @cached_property
    def _of_shard(self) -> list[str | None]:
        return splits_of(self._corpus, "images")

    def _part(self, shard: int) -> pa.Table:
        return self._draft.read_table(f"{IMAGE_EMBEDDINGS}/{self._name}", shard)

    def _read_split(self, split: str | None) -> tuple[pa.Array, Rows, Search, TailSample]:
        """Names of a split's images, their rows, a search among them, and a sample of them."""
        parts = [self._part(shard) for shard, other in enumerate(self._of_shard) if other == split]
        names, rows = pa.concat_tables(parts)["image_id"].combine_chunks(), dense_rows(parts)
        soft, similarity = self._settings.soft_labels, EmbeddingCosine.similarity
        size = 0 if soft is None else soft.tail_sample
        search = similarity.search_of(rows, self._settings.neighbours)
        return names, rows, search, TailSample(similarity, rows, np.arange(len(rows)), size, self._settings.seed)


def _lists_of_images(
    own: pa.Array, names: pa.Array, schema: pa.Schema, found: IntArray, values: FloatArray, *more: pa.Array
) -> pa.Table:
    """Rows of places among `names` and their values, as lists; places below 0 are left out."""
    there = found >= 0
    starts = pa.array(np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32))
    ids = pa.ListArray.from_arrays(starts, names.take(pa.array(found[there])))
    return pa.table([own, ids, pa.ListArray.from_arrays(starts, pa.array(values[there])), *more], schema=schema)


def image_fingerprint(settings: ImageTeacherSettings) -> dict[str, Any]:
    """All that determines a teacher's rows, beside the corpus.

    Raises:
        ModelError, CorpusError: the model or the file is missing.
    """
    if isinstance(settings, DescriptorTeacherSettings):
        return descriptors_fingerprint()
    if isinstance(settings, FeatureTeacherSettings):
        return {} if settings.file is None else imported_fingerprint(settings.file, settings.ids)
    return image_teacher_fingerprint(
        settings.model, revision=settings.revision, pooling=settings.pooling, regions=settings.regions
    )


def require_readable(name: str, settings: ImageTeacherSettings, corpus: Artifact) -> None:
    """Raises CorpusError where a teacher reads what the corpus does not hold: pictures, or features."""
    held = "features" if "features" in corpus.tables else "pictures"
    reads_corpus_features = isinstance(settings, FeatureTeacherSettings) and settings.file is None
    if reads_corpus_features and held == "pictures":
        raise CorpusError(
            f"label.image_teachers.{name}: corpus {corpus.version} was made from pictures and holds no features. "
            "Name a file of them, or a teacher that looks at pictures."
        )
    if not isinstance(settings, FeatureTeacherSettings) and held == "features":
        raise CorpusError(
            f"label.image_teachers.{name}: a teacher of kind {settings.kind} looks at pictures, and corpus "
            f"{corpus.version} was made from features. Use kind: features."
        )


def image_teachers_of(labels: Artifact) -> list[str]:
    """The image teachers whose embeddings a label set holds, sorted."""
    return sorted(
        name for kind, _, name in (table.partition("/") for table in labels.tables) if kind == IMAGE_EMBEDDINGS
    )


class ImageSimilarity:
    """How alike images of one split are, by one teacher of a label set; addressed by image row.

    Embeddings are mapped from disk: opening reads them once, a shard at a time, and memory holds what a batch touches.
    """

    def __init__(self, labels: Artifact, teacher: str, rows: CorpusRows) -> None:
        """
        Args:
            labels: a label set of the rows' corpus.
            teacher: name of one of its image teachers.
        Raises:
            StoreError: the label set has no such teacher, is of other images, or a file is missing or damaged.
        """
        table = f"{IMAGE_EMBEDDINGS}/{teacher}"
        if table not in labels.tables:
            known = ", ".join(image_teachers_of(labels)) or "none"
            raise StoreError(f"label set {labels.version} has no image teacher {teacher!r}. Name one it has: {known}.")

        def parts() -> Iterator[pa.Table]:
            for shard in rows.shards:
                part = labels.read(table, shard, checked=True)  # what is damaged is found before it is trained on
                if not part["image_id"].equals(rows.corpus.read("images", shard, ["image_id"])["image_id"]):
                    raise StoreError(
                        f"label set {labels.version} has embeddings of other images than split {rows.split} of corpus "
                        f"{rows.corpus.version}. Label this corpus."
                    )
                yield part

        self._book = DenseBook(np.arange(rows.image_count), dense_rows(parts()))

    def take(self, rows: IntArray) -> Rows:
        """(rows, dimension) embeddings of images, given by their rows in the split."""
        return self._book.take(rows)

    def matrix(self, rows: IntArray, others: IntArray) -> FloatArray:
        """(rows, others) cosines of images."""
        return cosine_matrix(self.take(rows), self.take(others))
