"""The weighted sum of losses a recipe asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from bcls_core.config import KendallTerm, ObjectiveTerm, TripletTerm
from bcls_core.losses import kendall_loss, triplet_loss
from bcls_core.similarity import GapQuantiles

Relevances = Mapping[str, Tensor]
_Term = Callable[[Tensor, Relevances], Tensor]


class Objective:
    """Named, weighted loss terms of one batch; computes only what some term asks for."""

    def __init__(self, terms: Sequence[ObjectiveTerm], gaps: Mapping[str, GapQuantiles]) -> None:
        """
        Args:
            terms: the recipe's objective.
            gaps: per relevance measure the label set's quantiles, from which gaps like "p60" are read.
        """
        self._terms: dict[str, _Term] = {}
        self.measures: frozenset[str] = frozenset(t.relevance for t in terms if isinstance(t, KendallTerm))
        for position, term in enumerate(terms):
            repeated = sum(other.loss == term.loss for other in terms) > 1
            name = f"loss/{term.loss}-{position}" if repeated else f"loss/{term.loss}"
            self._terms[name] = _bind(term, gaps)

    def __call__(self, scores: Tensor, relevances: Relevances) -> dict[str, Tensor]:
        """
        Args:
            scores: (batch, batch) student scores, rows images, columns captions, matched pairs on the diagonal.
            relevances: per measure the (batch, batch) labels.
        Returns:
            The weighted terms; their sum is the loss.
        """
        return {name: term(scores, relevances) for name, term in self._terms.items()}


def _bind(term: ObjectiveTerm, gaps: Mapping[str, GapQuantiles]) -> _Term:
    if isinstance(term, TripletTerm):

        def triplet(scores: Tensor, _: Relevances) -> Tensor:
            loss = triplet_loss(
                scores, mining=term.mining, margin=term.margin, tau=term.tau, variant=term.variant, eps=term.eps
            )
            return term.weight * loss

        return triplet
    gap = gaps[term.relevance].resolve(term.gap)

    def kendall(scores: Tensor, relevances: Relevances) -> Tensor:
        labels = relevances[term.relevance]
        loss = kendall_loss(
            scores,
            labels,
            gap=gap,
            surrogate=term.surrogate,
            margin=term.margin,
            tau=term.tau,
            normalise=term.normalise,
        )
        return term.weight * loss

    return kendall
