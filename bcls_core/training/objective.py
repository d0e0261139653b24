"""The weighted sum of losses a recipe asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bcls_core.config import GradedTerm, KendallTerm, ObjectiveTerm
from bcls_core.losses import (
    CoSENTLoss,
    InfoNCELoss,
    KendallLoss,
    LadderLoss,
    LanguageGuidedMarginLoss,
    SigLIPLoss,
    SmoothNDCGLoss,
    SoftSpearmanLoss,
    TripletLoss,
)
from bcls_core.losses.directions import ALONE
from bcls_core.losses.temperature import Temperature
from bcls_core.similarity import GapQuantiles
from bcls_core.training.batches import Relevance
from bcls_core.workers import Workers

_LOSSES: Mapping[str, Callable[..., nn.Module]] = {
    "triplet": TripletLoss,
    "info-nce": InfoNCELoss,
    "siglip": SigLIPLoss,
    "kendall": KendallLoss,
    "language-guided-margin": LanguageGuidedMarginLoss,
    "ladder": LadderLoss,
    "s-ndcg": SmoothNDCGLoss,
    "soft-spearman": SoftSpearmanLoss,
    "cosent": CoSENTLoss,
}
_WITHOUT_POSITIVES = {"s-ndcg", "soft-spearman", "cosent"}


@dataclass(frozen=True)
class ScoredPairs:
    """The scores one worker has of a step.

    Attributes:
        scores: (images, captions), its own images against the captions of the whole step.
        positives: (images, captions) bool; None for the diagonal.
        t2i_scores: (captions, images), its own captions against the images of the whole step; None for the transpose.
        t2i_positives: (captions, images) bool.
    """

    scores: Tensor
    positives: Tensor | None = None
    t2i_scores: Tensor | None = None
    t2i_positives: Tensor | None = None


class Objective(nn.Module):
    """Named, weighted loss terms of one batch; computes only what some term asks for.

    Its parameters are the losses' learned temperatures and the like.
    """

    def __init__(self, terms: Sequence[ObjectiveTerm], gaps: Mapping[str, GapQuantiles]) -> None:
        """
        Args:
            terms: the recipe's objective.
            gaps: per relevance measure the label set's quantiles, from which gaps like "p60" are read.
        """
        super().__init__()
        self._terms = tuple(terms)
        self._losses = nn.ModuleList(_build(term, gaps) for term in terms)
        self.measures: frozenset[str] = frozenset(t.relevance for t in terms if isinstance(t, GradedTerm))
        names = [term.loss for term in terms]
        self._suffixes = [f"-{place}" if names.count(name) > 1 else "" for place, name in enumerate(names)]

    def forward(
        self, pairs: ScoredPairs, relevances: Mapping[str, Relevance], workers: Workers = ALONE
    ) -> dict[str, Tensor]:
        """
        Args:
            pairs: this worker's scores.
            relevances: per measure the labels of these scores.
        Returns:
            This worker's shares of the weighted terms; their sum over all workers is the loss.
        """
        found: dict[str, Tensor] = {}
        for term, loss, suffix in zip(self._terms, self._losses, self._suffixes, strict=True):
            for name, value in loss(**_arguments(term, pairs, relevances), workers=workers).items():
                path = f"loss/{name}" if name == term.loss else f"loss/{term.loss}/{name}"
                found[path + suffix] = term.weight * value
        return found

    @torch.no_grad()
    def learned(self) -> dict[str, float]:
        """Present values of the losses' parameters; of one that is learned as a logarithm, the number itself."""
        found: dict[str, float] = {}
        for term, loss, suffix in zip(self._terms, self._losses, self._suffixes, strict=True):
            for path, parameter in loss.named_parameters():
                owner, _, name = path.rpartition(".")
                module = loss.get_submodule(owner)
                if isinstance(module, Temperature):
                    value = float(module())  # within its bounds, which the parameter may have left
                else:
                    value = float(parameter.exp()) if name.startswith("log_") else float(parameter)
                found[f"learned/{term.loss}{suffix}/{name.removeprefix('log_')}"] = value
        return found


def _build(term: ObjectiveTerm, gaps: Mapping[str, GapQuantiles]) -> nn.Module:
    settings = term.settings()
    if isinstance(term, KendallTerm):
        settings["gap"] = gaps[term.relevance].resolve(term.gap)
    return _LOSSES[term.loss](**settings)


def _arguments(term: ObjectiveTerm, pairs: ScoredPairs, relevances: Mapping[str, Relevance]) -> dict[str, Any]:
    arguments: dict[str, Any] = {"scores": pairs.scores, "t2i_scores": pairs.t2i_scores}
    if term.loss not in _WITHOUT_POSITIVES:
        arguments |= {"positives": pairs.positives, "t2i_positives": pairs.t2i_positives}
    if isinstance(term, GradedTerm):
        labels = relevances[term.relevance]
        arguments |= {"labels": labels.i2t, "t2i_labels": labels.t2i}
    return arguments
