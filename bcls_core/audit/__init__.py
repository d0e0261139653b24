"""What is wrong with a corpus and its labels, before a model is trained on them."""

from __future__ import annotations

from bcls_core.audit.corpus_audit import NEAR_COSINE, AuditSettings, audit
from bcls_core.audit.findings import Audit, Leak, Match, MeasureFindings, Overlap
from bcls_core.audit.pictures import NEAR_BITS
from bcls_core.audit.repeated_captions import repeated

__all__ = [
    "NEAR_BITS",
    "NEAR_COSINE",
    "Audit",
    "AuditSettings",
    "Leak",
    "Match",
    "MeasureFindings",
    "Overlap",
    "audit",
    "repeated",
]
