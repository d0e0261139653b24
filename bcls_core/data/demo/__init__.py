"""The demo corpus: procedurally drawn scenes with captions and a true graded relevance, deterministic from a seed."""

from __future__ import annotations

from bcls_core.data.demo.captions import CAPTIONS_PER_SCENE
from bcls_core.data.demo.corpus import TRUTH, demo_records, image_id, split_size, true_relevance, truth_records
from bcls_core.data.demo.relevance import relevance, relevance_from_facts, scene_facts
from bcls_core.data.demo.scenes import Scene, make_scene

__all__ = [
    "CAPTIONS_PER_SCENE",
    "TRUTH",
    "Scene",
    "demo_records",
    "image_id",
    "make_scene",
    "relevance",
    "relevance_from_facts",
    "scene_facts",
    "split_size",
    "true_relevance",
    "truth_records",
]
