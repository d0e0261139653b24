"""Tiny models of each kind, as recipes and as folders, so that nothing here needs real weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bcls_core.config.student import TwoTowerStudent
from bcls_core.students import Student, build_student
from bcls_core.students.tokenizer import build_tokenizer

CAPTIONS = [
    "A red ball lies on a blue box.",
    "The small dog runs after the red ball!",
    "Two dogs, one box.",
    "A cat sleeps.",
]
TINY_TRANSFORMER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TINY_RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 12],
    "depths": [1, 1],
    "layer_type": "basic",
}
TINY_BERT = {"model_type": "bert", **TINY_TRANSFORMER}


@pytest.fixture
def captions() -> list[str]:
    return list(CAPTIONS)


@pytest.fixture
def images() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (40, 52, 3), dtype=np.uint8)) for _ in range(4)]


@pytest.fixture
def recipe() -> Callable[..., TwoTowerStudent]:
    """`recipe(image=..., dim=...)`: a tiny two-tower section with those parts replaced."""

    def make(**parts: Any) -> TwoTowerStudent:
        whole = {
            "kind": "two-tower",
            "image": {"config": TINY_RESNET, "size": 32},
            "text": {"config": TINY_BERT},
            "dim": 8,
        }
        return TwoTowerStudent.model_validate({**whole, **parts})

    return make


@pytest.fixture
def build(recipe: Callable[..., TwoTowerStudent]) -> Callable[..., Student]:
    """`build(**parts)`: the seeded student of `recipe(**parts)`."""

    def make(**parts: Any) -> Student:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build_student(recipe(**parts), iter(CAPTIONS))

    return make


@pytest.fixture
def clip_folder(tmp_path: Path) -> Path:
    """A tiny CLIP with its image processor and a tokenizer, as `save_pretrained` leaves it."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    folder = tmp_path / "clip"
    tokenizer = build_tokenizer(CAPTIONS, vocabulary=40, max_tokens=16)
    text = {
        **TINY_TRANSFORMER,
        "vocab_size": 44,
        "max_position_embeddings": 16,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "pad_token_id": 0,
    }
    vision = {**TINY_TRANSFORMER, "image_size": 32, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return folder


@pytest.fixture
def bert_folder(tmp_path: Path) -> Path:
    """A tiny BERT, its pooler never saved, as a sentence-transformers folder that pools by [CLS]."""
    from transformers import BertConfig, BertModel

    folder = tmp_path / "bert"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertModel(BertConfig(**TINY_TRANSFORMER, vocab_size=44), add_pooling_layer=False)
    model.save_pretrained(folder)
    build_tokenizer(CAPTIONS, vocabulary=40, max_tokens=16).save_pretrained(folder)
    (folder / "modules.json").write_text(
        '[{"path": "", "type": "sentence_transformers.models.Transformer"},'
        ' {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]'
    )
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}'
    )
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    return folder
