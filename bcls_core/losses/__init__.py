"""Losses: score matrices and labels in, named terms out; never embeddings, so that any student can use any of them.

README.md in this folder says of each loss its formula and source, what it asks of labels, and when to use it.
"""

from __future__ import annotations

from bcls_core.losses.alignment import CrossModalAlignmentLoss, UniModalAlignmentLoss, cross_modal_alignment_loss
from bcls_core.losses.checks import require_finite
from bcls_core.losses.cosent import CoSENTLoss, cosent_loss
from bcls_core.losses.gap import gap_percentile
from bcls_core.losses.info_nce import InfoNCELoss, info_nce_loss
from bcls_core.losses.kendall import KendallLoss, kendall_loss
from bcls_core.losses.ladder import LadderLoss, ladder_loss
from bcls_core.losses.language_guided_margin import LanguageGuidedMarginLoss, language_guided_margin_loss
from bcls_core.losses.s_ndcg import SmoothNDCGLoss, s_ndcg_loss
from bcls_core.losses.siglip import SigLIPLoss, siglip_loss
from bcls_core.losses.soft_label import SoftLabelLoss, soft_label_loss
from bcls_core.losses.soft_spearman import SoftSpearmanLoss, soft_spearman_loss
from bcls_core.losses.temperature import Temperature
from bcls_core.losses.triplet import TripletLoss, triplet_loss

__all__ = [
    "CoSENTLoss",
    "CrossModalAlignmentLoss",
    "InfoNCELoss",
    "KendallLoss",
    "LadderLoss",
    "LanguageGuidedMarginLoss",
    "SigLIPLoss",
    "SmoothNDCGLoss",
    "SoftLabelLoss",
    "SoftSpearmanLoss",
    "Temperature",
    "TripletLoss",
    "UniModalAlignmentLoss",
    "cosent_loss",
    "cross_modal_alignment_loss",
    "gap_percentile",
    "info_nce_loss",
    "kendall_loss",
    "ladder_loss",
    "language_guided_margin_loss",
    "require_finite",
    "s_ndcg_loss",
    "siglip_loss",
    "soft_label_loss",
    "soft_spearman_loss",
    "triplet_loss",
]
