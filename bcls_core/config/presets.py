"""Objectives by name: what a paper's released program really optimises, as terms of this project."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from bcls_core.config.base import Section
from bcls_core.config.label import MeasureName

_RELEASED = {"clip": (0.1, 0.5), "sgr": (0.6, 0.75), "saf": (1.0, 0.75), "x2-vlm": (0.3, 0.75)}


class CusaReleased(Section):
    """`contrastive + alpha CSA + beta USA` of CUSA (Huang et al. 2024), with the weights that its program gives them.

    The program averages InfoNCE over the rows *and columns* of a batch of B pairs, so there it weighs 1/B of the
    textbook's, which here is a term of weight 1. Multiplied by B, its sum is `InfoNCE + alpha B CSA + beta B USA`: at
    its batch of 128 and CLIP's alpha 0.1 and beta 0.5 the weights are 12.8 and 64.
    """

    preset: Literal["cusa-released"]
    backbone: Literal["clip", "sgr", "saf", "x2-vlm"] = "clip"
    alpha: PositiveFloat | None = None
    beta: PositiveFloat | None = None
    batch: PositiveInt = 128
    mode: Literal["each", "add", "dot"] = "each"
    image_teacher: MeasureName | None = None
    caption_teacher: MeasureName | None = None

    @model_validator(mode="after")
    def _weights_are_both_given_or_known(self) -> CusaReleased:
        if (self.alpha is None) != (self.beta is None):
            raise ValueError("give alpha and beta, or neither: a backbone's go together")
        return self

    def terms(self) -> list[dict[str, Any]]:
        """The terms, as a recipe would write them."""
        alpha, beta = _RELEASED[self.backbone] if self.alpha is None or self.beta is None else (self.alpha, self.beta)
        teachers = {"image_teacher": self.image_teacher, "caption_teacher": self.caption_teacher}
        within = ["image-image", "caption-caption"]
        return [
            {"loss": "info-nce"},
            {"loss": "soft-label", "mode": self.mode, "weight": alpha * self.batch, **teachers},
            {"loss": "soft-label", "between": within, "weight": beta * self.batch, **teachers},
        ]


def expanded(objective: Any) -> Any:
    """A recipe's objective with the terms of presets in their place; whatever else is there is left as it is.

    Raises:
        ValueError: a preset is unknown, or its settings are wrong.
    """
    if not isinstance(objective, list):
        return objective
    terms: list[Any] = []
    for place, term in enumerate(objective):
        is_preset = isinstance(term, dict) and "preset" in term
        terms += _preset(term, place).terms() if is_preset else [term]
    return terms


def _preset(term: dict[str, Any], place: int) -> CusaReleased:
    try:
        return CusaReleased.model_validate(term)
    except ValidationError as error:
        problems = [
            InitErrorDetails(type=item["type"], loc=(place, *item["loc"]), input=item["input"], ctx=item.get("ctx", {}))
            for item in error.errors()
        ]
        raise ValidationError.from_exception_data("objective", problems) from error
