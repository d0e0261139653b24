"""Metrics: scores, labels and truth in, named numbers out."""

from __future__ import annotations

from bcls_core.metrics.coherence import coherence
from bcls_core.metrics.correlation import rank_correlation
from bcls_core.metrics.retrieval import retrieval, retrieval_from_encodings
from bcls_core.metrics.strips import Products, Strips

__all__ = ["Products", "Strips", "coherence", "rank_correlation", "retrieval", "retrieval_from_encodings"]
