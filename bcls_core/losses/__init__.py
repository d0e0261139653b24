"""Losses: score matrices and labels in, named terms out; never embeddings, so that any student can use any of them."""

from __future__ import annotations

from bcls_core.losses.checks import require_finite
from bcls_core.losses.gap import gap_percentile
from bcls_core.losses.kendall import KendallLoss, kendall_loss
from bcls_core.losses.triplet import TripletLoss, triplet_loss

__all__ = ["KendallLoss", "TripletLoss", "gap_percentile", "kendall_loss", "require_finite", "triplet_loss"]
