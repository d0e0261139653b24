"""CLIP and SigLIP as students: what `transformers` itself says of the same inputs, before and after a trip to disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from transformers import AutoModel, CLIPConfig, CLIPModel, SiglipConfig, SiglipModel, ViTConfig, ViTModel

from bcls_core.config.student import ClipStudent, StudentSettings
from bcls_core.errors import ModelError
from bcls_core.students import DualEncoder, build_student, load_student, save_student
from bcls_core.students.tokenizer import build_tokenizer
from bcls_core.training.schedule import build_optimiser

SETTINGS: TypeAdapter[Any] = TypeAdapter(StudentSettings)
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VISION = {**SMALL, "image_size": 32, "patch_size": 8}


def clip(**given: Any) -> Any:
    return SETTINGS.validate_python({"kind": "clip", **given})


def random_weights(model_type: str, **given: Any) -> ClipStudent:
    """A recipe's section for random weights."""
    config = {"model_type": model_type, "text_config": SMALL, "vision_config": {**SMALL, "patch_size": 8}}
    config |= {"projection_dim": 8} if model_type == "clip" else {}
    settings: ClipStudent = clip(config=config, size=32, max_tokens=12, **given)
    return settings


def folder_of(path: Path, model_type: str, captions: list[str]) -> Path:
    """A folder as a hub has it: weights, tokenizer, image processor."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(captions, vocabulary=100, max_tokens=12)
    text = {**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 12, "pad_token_id": 0, "eos_token_id": 3}
    model = (
        CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))
        if model_type == "clip"
        else SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))
    )
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    (path / "preprocessor_config.json").write_text(json.dumps(processor))
    return path


@pytest.mark.parametrize("model_type", ["clip", "siglip"])
def test_scores_are_those_of_transformers(
    tmp_path: Path, captions: list[str], images: list[Image.Image], model_type: str
) -> None:
    folder = folder_of(tmp_path, model_type, captions)
    student = build_student(clip(model=str(folder)), []).eval()
    model = AutoModel.from_pretrained(folder).eval()
    pixels = student.prepare_images(images)
    # SigLIP reads the last place of captions that are all as long as it can read; CLIP the end of each.
    padding = "max_length" if model_type == "siglip" else True
    tokens = student.preprocessor.captions.tokenizer(
        captions, padding=padding, max_length=12, truncation=True, return_tensors="pt"
    )
    told = {"input_ids": tokens["input_ids"]} | (
        {"attention_mask": tokens["attention_mask"]} if model_type == "clip" else {}
    )
    with torch.no_grad():
        expected = model(**pixels, **told)
        found = student.encode_images(pixels), student.encode_captions(student.prepare_captions(captions))
    torch.testing.assert_close(found[0], expected.image_embeds)
    torch.testing.assert_close(found[1], expected.text_embeds)
    with torch.no_grad():
        alone = torch.cat([student.encode_captions(student.prepare_captions([one])) for one in captions])
    torch.testing.assert_close(alone, found[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", ["clip", "siglip"])
def test_random_weights_train_and_come_back_from_disk(
    tmp_path: Path, captions: list[str], images: list[Image.Image], model_type: str
) -> None:
    torch.manual_seed(1)
    student = build_student(random_weights(model_type), captions)
    assert isinstance(student, DualEncoder)
    assert student.training
    assert student.pretrained_towers == []
    pixels, tokens = student.prepare_images(images), student.prepare_captions(captions)
    loss = -student.score(student.encode_images(pixels), student.encode_captions(tokens)).diagonal().sum()
    loss.backward()
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    assert len(trained) > 10
    assert all(parameter.grad is not None for parameter in trained), "distributed training would wait for it"
    untrained = {name for name, parameter in student.named_parameters() if not parameter.requires_grad}
    assert "model.logit_scale" in untrained
    student.eval()
    save_student(student, tmp_path)
    again = load_student(tmp_path)
    assert type(again) is DualEncoder
    with torch.no_grad():
        assert torch.equal(again.encode_images(again.prepare_images(images)), student.encode_images(pixels))
        assert torch.equal(again.encode_captions(again.prepare_captions(captions)), student.encode_captions(tokens))
    save_student(again, tmp_path / "again")
    for name in ("student.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_weights_that_came_have_a_rate_of_their_own(tmp_path: Path, captions: list[str], make_settings: Any) -> None:
    student = build_student(clip(model=str(folder_of(tmp_path, "clip", captions))), [])
    settings = make_settings(learning_rate=1e-3, tower_learning_rate=1e-5, layer_decay=0.5)
    groups = build_optimiser(student, torch.nn.Module(), settings).param_groups
    scales = {group["scale"] for group in groups}
    assert max(scales) == pytest.approx(0.01)
    assert len(scales) > 1, "layers further from the output learn more slowly"


@pytest.fixture
def make_settings() -> Any:
    from bcls_core.config import load_recipe
    from flows import recipes

    demo = load_recipe(recipes.find("demo")).train
    return lambda **changes: demo.model_copy(update=changes)


def test_what_is_no_dual_encoder_is_refused(tmp_path: Path, captions: list[str]) -> None:
    ViTModel(ViTConfig(**VISION)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="a vit is no dual encoder, it has no vision_config and no text_config"):
        build_student(clip(model=str(tmp_path)), captions)
    with pytest.raises(ModelError, match=r"student\.config: a bert is no dual encoder"):
        build_student(clip(config={"model_type": "bert", **SMALL}), captions)


def test_a_folder_without_weights_is_refused(tmp_path: Path, captions: list[str]) -> None:
    folder = folder_of(tmp_path, "clip", captions)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="the weights cannot be loaded"):
        build_student(clip(model=str(folder)), captions)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "exactly one of model"),
        ({"model": "m", "config": {"model_type": "clip"}}, "exactly one of model"),
        ({"config": {}}, "needs model_type"),
        ({"model": "m", "size": 32}, "brings its own size"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        clip(**given)


def test_sizes_that_the_inputs_do_not_have_are_refused(captions: list[str]) -> None:
    config = {"model_type": "clip", "vision_config": {**VISION, "image_size": 48}, "text_config": SMALL}
    with pytest.raises(ModelError, match=r"vision_config: image_size is 48, but the inputs have 32"):
        build_student(clip(config=config, size=32), captions)
