"""The weighted sum of losses a recipe asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from bcls_core.config import (
    BinaryTerm,
    GradedTerm,
    KendallTerm,
    ObjectiveTerm,
    Related,
    SoftLabelTerm,
    TrainSettings,
)
from bcls_core.errors import ConfigError
from bcls_core.losses import (
    CoSENTLoss,
    CrossModalAlignmentLoss,
    InfoNCELoss,
    KendallLoss,
    LadderLoss,
    LanguageGuidedMarginLoss,
    SigLIPLoss,
    SmoothNDCGLoss,
    SoftSpearmanLoss,
    TripletLoss,
    UniModalAlignmentLoss,
)
from bcls_core.losses.directions import ALONE
from bcls_core.losses.temperature import Temperature
from bcls_core.similarity import GapQuantiles, image_teachers_of, measures_of
from bcls_core.store import Artifact
from bcls_core.training.batches import NO_TEACHERS, Relevance, Teachers, Teaching
from bcls_core.training.heads import UniModalHeads
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
WITHIN = ("image-image", "caption-caption")
"""Sides that have scores of their own."""

Taught = tuple[Teaching | None, Teaching | None]
"""What a term reads: of images and of captions."""


@dataclass(frozen=True)
class ScoredPairs:
    """The scores one worker has of a step.

    Attributes:
        scores: (images, captions), its own images against the captions of the whole step.
        positives: (images, captions) bool; None for the diagonal.
        t2i_scores: (captions, images), its own captions against the images of the whole step; None for the transpose.
        t2i_positives: (captions, images) bool.
        encodings: `image-image` and `caption-caption` -> (rows, dim) encodings of this worker's images (captions), and
            (step's rows, dim) of everybody's.
    """

    scores: Tensor
    positives: Tensor | None = None
    t2i_scores: Tensor | None = None
    t2i_positives: Tensor | None = None
    encodings: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class Objective(nn.Module):
    """Named, weighted loss terms of one batch; computes only what some term asks for.

    Its parameters are the losses' learned temperatures and the like, and the heads for scores within a side.

    Attributes:
        measures: the relevance measures whose labels it reads.
        image_teachers, caption_teachers: what it reads of teachers.
        heads: for scores within a side.
    """

    def __init__(
        self,
        terms: Sequence[ObjectiveTerm],
        gaps: Mapping[str, GapQuantiles],
        teachers: Sequence[Taught] | None = None,
        dims: Mapping[str, int] = MappingProxyType({}),
        seed: int = 0,
    ) -> None:
        """
        Args:
            terms: the recipe's objective.
            gaps: per relevance measure the label set's quantiles, from which gaps like "p60" are read.
            teachers: what each term reads of them, as `taught` finds it; None where no term reads any.
            dims: of each side that `sides_within` gives, how long the student's encodings are.
            seed: of the heads' weights.
        """
        super().__init__()
        self._terms = tuple(terms)
        self._losses = nn.ModuleList(_build(term, gaps) for term in terms)
        self._teachers = list(teachers or [(None, None)] * len(terms))
        self.heads = UniModalHeads({side: dims[side] for side in sides_within(terms)}, seed)
        self.measures: frozenset[str] = frozenset(one for term in terms for one in term.measures().values())
        images, captions = zip(*self._teachers, strict=True)
        self.image_teachers: frozenset[Teaching] = frozenset(one for one in images if one is not None)
        self.caption_teachers: frozenset[Teaching] = frozenset(one for one in captions if one is not None)
        names = [term.loss for term in terms]
        self._suffixes = [f"-{place}" if names.count(name) > 1 else "" for place, name in enumerate(names)]

    def forward(
        self,
        pairs: ScoredPairs,
        relevances: Mapping[str, Relevance],
        teachers: Teachers = NO_TEACHERS,
        workers: Workers = ALONE,
    ) -> dict[str, Tensor]:
        """
        Args:
            pairs: this worker's scores.
            relevances: per measure the labels of these scores.
            teachers: what they say of these pairs.
        Returns:
            This worker's shares of the weighted terms; their sum over all workers is the loss.
        """
        found: dict[str, Tensor] = {}
        described = zip(self._terms, self._losses, self._teachers, self._suffixes, strict=True)
        for term, loss, named, suffix in described:
            if isinstance(term, SoftLabelTerm):
                values = loss(**self._taught(term, named, pairs, teachers), workers=workers)
            else:
                values = loss(**_arguments(term, pairs, relevances), workers=workers)
            for name, value in values.items():
                path = f"loss/{name}" if name == term.loss else f"loss/{term.loss}/{name}"
                found[path + suffix] = term.weight * value
        return found

    def _taught(self, term: SoftLabelTerm, named: Taught, pairs: ScoredPairs, teachers: Teachers) -> dict[str, Any]:
        """Arguments of a loss that reads teachers."""
        of_images, of_captions = named
        images = None if of_images is None else teachers.images[of_images].matrix()
        captions = None if of_captions is None else teachers.captions[of_captions].matrix()
        if term.is_cross_modal:
            both = {"image_teacher": images, "caption_teacher": captions}
            return {"scores": pairs.scores, "t2i_scores": pairs.t2i_scores, **both}
        said = {"image-image": images, "caption-caption": captions}
        scored = {side: (self.heads.scores(side, *pairs.encodings[side]), said[side]) for side in term.sides}
        return {"scores_and_teachers": scored}

    @torch.no_grad()
    def learned(self) -> dict[str, float]:
        """Present values of the losses' parameters; of one that is learned as a logarithm, the number itself."""
        found: dict[str, float] = {}
        for term, loss, suffix in zip(self._terms, self._losses, self._suffixes, strict=True):
            for path, parameter in loss.named_parameters():
                owner, _, name = path.rpartition(".")
                module = loss.get_submodule(owner)
                part = next((f"{side}/" for side in WITHIN if side in path), "")
                if isinstance(module, Temperature):
                    value = float(module())  # within its bounds, which the parameter may have left
                else:
                    value = float(parameter.exp()) if name.startswith("log_") else float(parameter)
                found[f"learned/{term.loss}{suffix}/{part}{name.removeprefix('log_')}"] = value
        return found


def sides_within(terms: Sequence[ObjectiveTerm]) -> list[str]:
    """The sides whose scores within themselves some term reads."""
    asked = {side for term in terms if isinstance(term, SoftLabelTerm) for side in term.sides}
    return [side for side in WITHIN if side in asked]


def taught(settings: TrainSettings, labels: Artifact) -> list[Taught]:
    """What each term of a training's objective reads of teachers.

    Raises:
        ConfigError: a teacher is not there, or is not the only one where none is named.
    """
    try:
        read = settings.teachers_read(image_teachers_of(labels), measures_of(labels), "the label set")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    found: list[Taught] = []
    for term, named in zip(settings.objective, read, strict=True):
        kind = term.labels if isinstance(term, SoftLabelTerm) else "batch"
        images, captions = (None if name is None else Teaching(name, kind) for name in named)
        found.append((images, captions))
    return found


def _build(term: ObjectiveTerm, gaps: Mapping[str, GapQuantiles]) -> nn.Module:
    settings = term.settings()
    if isinstance(term, SoftLabelTerm):
        return (CrossModalAlignmentLoss if term.is_cross_modal else UniModalAlignmentLoss)(**settings)
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
    if isinstance(term, BinaryTerm) and term.related is not None:
        arguments |= _related(term.related, pairs, relevances[term.related.relevance])
    return arguments


def _related(related: Related, pairs: ScoredPairs, labels: Relevance) -> dict[str, Tensor | None]:
    """What becomes of pairs whose labels say that they might be matches."""
    i2t, t2i = labels.i2t > related.above, None if labels.t2i is None else labels.t2i > related.above
    if related.treat == "ignore":
        return {"ignored": i2t, "t2i_ignored": t2i}
    own = pairs.positives
    if own is None:
        own = torch.eye(len(i2t), dtype=torch.bool, device=i2t.device)
    both = None if t2i is None or pairs.t2i_positives is None else pairs.t2i_positives | t2i
    return {"positives": own | i2t, "t2i_positives": both}
