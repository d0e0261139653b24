"""The two-tower student's encodings and scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from bcls_core.errors import ModelError
from bcls_core.students import Student
from bcls_core.students.two_tower import projection


def test_scores_are_cosines(build: Callable[..., Student], images: list[Image.Image], captions: list[str]) -> None:
    student = build().eval()
    encoded_images = student.encode_images(student.prepare_images(images))
    encoded_captions = student.encode_captions(student.prepare_captions(captions[:3]))
    assert encoded_images.shape == (4, 8)
    assert encoded_captions.shape == (3, 8)
    expected = torch.cosine_similarity(encoded_images[:, None], encoded_captions[None], dim=-1)
    torch.testing.assert_close(student.score(encoded_images, encoded_captions), expected)
    torch.testing.assert_close(encoded_images.norm(dim=-1), torch.ones(4))
    assert student.factorised


def test_features_of_a_frozen_tower_stand_for_its_inputs(
    build: Callable[..., Student], clip_folder: Path, images: list[Image.Image], captions: list[str]
) -> None:
    student = build(image={"model": str(clip_folder)}, text={"model": str(clip_folder)}, projection="mlp").eval()
    assert student.image_tower_frozen
    assert student.caption_tower_frozen
    pixels, tokens = student.prepare_images(images), student.prepare_captions(captions)
    image_features, caption_features = student.frozen_image_features(pixels), student.frozen_caption_features(tokens)
    assert not image_features.requires_grad
    assert torch.equal(student.encode_images({"features": image_features}), student.encode_images(pixels))
    assert torch.equal(student.encode_captions({"features": caption_features}), student.encode_captions(tokens))
    assert student.encode_images({"features": image_features.half()}).dtype == torch.float32


def test_trained_towers_have_no_frozen_features(
    build: Callable[..., Student], images: list[Image.Image], captions: list[str]
) -> None:
    student = build()
    assert not student.image_tower_frozen
    assert not student.caption_tower_frozen
    with pytest.raises(ModelError, match="the image tower is trained"):
        student.frozen_image_features(student.prepare_images(images))
    with pytest.raises(ModelError, match="the text tower is trained"):
        student.frozen_caption_features(student.prepare_captions(captions))


def test_features_of_another_width_are_refused(build: Callable[..., Student]) -> None:
    with pytest.raises(ModelError, match=r"shape \(2, 5\), expected \(n, 12\)"):
        build().encode_images({"features": torch.zeros(2, 5)})


def test_every_parameter_that_asks_for_a_gradient_gets_one(
    build: Callable[..., Student], images: list[Image.Image], captions: list[str]
) -> None:
    student = build(projection="mlp", dropout=0.1).train()
    scores = student.score(
        student.encode_images(student.prepare_images(images)),
        student.encode_captions(student.prepare_captions(captions)),
    )
    (scores * torch.randn(4, 4, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert all(parameter.grad is not None for parameter in student.parameters() if parameter.requires_grad)


def test_the_seed_determines_the_weights(build: Callable[..., Student]) -> None:
    first, second = build().state_dict(), build().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_projections_have_the_parts_they_are_named_for() -> None:
    def parts(kind: str) -> list[type[nn.Module]]:
        return [type(part) for part in projection(6, 4, kind, 0.3).children()]

    assert parts("linear") == [nn.Dropout, nn.Linear]
    assert parts("mlp") == [nn.LayerNorm, nn.Linear, nn.GELU, nn.Dropout, nn.Linear]
    assert projection(6, 4, "mlp", 0.0)(torch.zeros(2, 6)).shape == (2, 4)
