"""Metrics: scores, labels and truth in, named numbers out."""

from __future__ import annotations

from bcls_core.metrics.coco import coco_queries, coco_recalls
from bcls_core.metrics.coco_ground_truth import CocoGroundTruth
from bcls_core.metrics.coherence import coherence
from bcls_core.metrics.correlation import rank_correlation
from bcls_core.metrics.cxc import cxc
from bcls_core.metrics.eccv import eccv
from bcls_core.metrics.human import human_relevance
from bcls_core.metrics.retrieval import retrieval, retrieval_from_encodings
from bcls_core.metrics.significance import paired_bootstrap
from bcls_core.metrics.strips import Products, Strips
from bcls_core.metrics.unimodal import caption_similarity, caption_to_caption, image_to_image

__all__ = [
    "CocoGroundTruth",
    "Products",
    "Strips",
    "caption_similarity",
    "caption_to_caption",
    "coco_queries",
    "coco_recalls",
    "coherence",
    "cxc",
    "eccv",
    "human_relevance",
    "image_to_image",
    "paired_bootstrap",
    "rank_correlation",
    "retrieval",
    "retrieval_from_encodings",
]
