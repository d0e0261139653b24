"""How similar captions are: measures, exact nearest captions, and the continuous labels made from them."""

from __future__ import annotations

from bcls_core.similarity.cider import CIDER_VERSION, Cider
from bcls_core.similarity.cider_d import CIDER_D_VERSION, CiderD
from bcls_core.similarity.embedding import EmbeddingCosine
from bcls_core.similarity.gaps import GAPS_VERSION, GapQuantiles, resolve_gap
from bcls_core.similarity.image_labels import ImageSimilarity, image_teachers_of
from bcls_core.similarity.ivf import IVF_VERSION
from bcls_core.similarity.label_set import LabelSetRelevance, load_gaps, measures_of
from bcls_core.similarity.measure import Measure
from bcls_core.similarity.relevance import CaptionRelevance, GalleryCaptions, ImageCaptions, Relevance
from bcls_core.similarity.soft_labels import SOFT_LABELS_VERSION
from bcls_core.similarity.top_k import NEIGHBOURS_VERSION, top_k
from bcls_core.teachers.descriptors import DESCRIPTORS_VERSION
from bcls_core.teachers.image import IMAGE_TEACHER_VERSION
from bcls_core.teachers.imported import IMPORTED_VERSION
from bcls_core.teachers.text import TEXT_TEACHER_VERSION

ALGORITHM_VERSIONS = {
    "cider": CIDER_VERSION,
    "cider-d": CIDER_D_VERSION,
    "descriptors": DESCRIPTORS_VERSION,
    "gaps": GAPS_VERSION,
    "imported-features": IMPORTED_VERSION,
    "image-teacher": IMAGE_TEACHER_VERSION,
    "ivf": IVF_VERSION,
    "neighbours": NEIGHBOURS_VERSION,
    "soft-labels": SOFT_LABELS_VERSION,
    "text-teacher": TEXT_TEACHER_VERSION,
}
"""Stage -> version of what it computes; those at work are part of a label set's fingerprint."""

__all__ = [
    "ALGORITHM_VERSIONS",
    "CaptionRelevance",
    "Cider",
    "CiderD",
    "EmbeddingCosine",
    "GalleryCaptions",
    "GapQuantiles",
    "ImageCaptions",
    "ImageSimilarity",
    "LabelSetRelevance",
    "Measure",
    "Relevance",
    "image_teachers_of",
    "load_gaps",
    "measures_of",
    "resolve_gap",
    "top_k",
]
