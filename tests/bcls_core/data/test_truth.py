from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bcls_core.config import DemoIngest
from bcls_core.data.demo import CAPTIONS_PER_SCENE
from bcls_core.data.demo import true_relevance as relevance_to_captions
from bcls_core.data.rows import CorpusRows
from bcls_core.data.truth import true_relevance
from bcls_core.store import Artifact


def test_the_truth_of_a_corpus_is_that_of_the_scenes(ingest: Callable[..., Artifact]) -> None:
    settings = DemoIngest(source="demo", train=2, val=1, test=6, size=32)
    corpus = ingest(settings, shard_images=4)
    names = CorpusRows(corpus, "test").image_ids

    truth = true_relevance(corpus, names)
    turned = true_relevance(corpus, names[::-1])

    assert truth is not None
    assert turned is not None
    assert np.array_equal(np.repeat(truth, CAPTIONS_PER_SCENE, axis=1), relevance_to_captions(settings, "test"))
    assert np.array_equal(turned, truth[::-1, ::-1])


def test_other_corpora_have_none(source: Any, ingest: Callable[..., Artifact], jpeg: Callable[..., bytes]) -> None:
    source.add("a.jpg", jpeg())

    assert true_relevance(ingest(source.settings()), ["a.jpg"]) is None
