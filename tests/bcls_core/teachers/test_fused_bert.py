"""Fused layers against the library's own, on small models with random weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from bcls_core.teachers import fused_bert
from bcls_core.teachers.fused_bert import FusedLayers, fuse
from bcls_core.teachers.text import TextTeacher

SIZES = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 80}


def bert(**changes: Any) -> BertModel:
    torch.manual_seed(5)
    config = BertConfig(vocab_size=90, max_position_embeddings=20, **SIZES, **changes)
    model = BertModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


def without_bias(model: BertModel) -> BertModel:
    model.encoder.layer[1].output.dense.bias = None
    return model


class Wrapped:
    """What holds a transformer in a sentence-transformers model."""

    def __init__(self, model: Any) -> None:
        self.model = model


@torch.inference_mode()
def test_hidden_states_are_the_same_but_for_rounding() -> None:
    plain = bert()
    fused = copy.deepcopy(plain)
    assert fuse([Wrapped(fused)])
    assert isinstance(fused.encoder, FusedLayers)
    ids = torch.randint(0, 90, (7, 11))
    mask = torch.ones_like(ids)
    for padded in (False, True):
        if padded:
            mask[2, 5:] = 0
            mask[4, 9:] = 0
        expected = plain(input_ids=ids, attention_mask=mask)
        found = fused(input_ids=ids, attention_mask=mask)
        torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.pooler_output, expected.pooler_output, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_bfloat16_loses_no_more_than_in_the_library() -> None:
    """With norms and weights as trained models have them, most of what a row says passes a layer by its sums."""
    plain = bert()
    for part in plain.modules():
        if isinstance(part, torch.nn.LayerNorm):
            part.reset_parameters()
        elif isinstance(part, torch.nn.Linear):
            part.weight.mul_(0.25)
            part.bias.mul_(0.25)
    fused = copy.deepcopy(plain)
    assert fuse([Wrapped(fused)])
    ids = torch.randint(0, 90, (40, 16))
    exact = plain(input_ids=ids).last_hidden_state
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = [(model(input_ids=ids).last_hidden_state - exact).norm() for model in (plain, fused)]
    assert losses[1] < 1.15 * losses[0]


@pytest.mark.parametrize(
    "model",
    [
        lambda: bert(hidden_act="relu"),
        lambda: bert(is_decoder=True),
        lambda: bert(output_hidden_states=True),
        lambda: bert(attn_implementation="eager"),
        lambda: without_bias(bert()),
        lambda: RobertaModel(RobertaConfig(vocab_size=90, max_position_embeddings=20, **SIZES)),
    ],
)
def test_other_models_stay_as_they_are(model: Any) -> None:
    found = model()
    layers = found.encoder
    assert not fuse([Wrapped(found)])
    assert found.encoder is layers
    assert not fuse([object()])


def test_layers_that_give_something_else_are_taken_out_again(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = ["a dog runs on the beach", "two people", "a red bus at night"]
    teacher = TextTeacher(str(tiny))
    assert isinstance(teacher._model[0].model.encoder, FusedLayers)
    rows = teacher.encode(captions).astype(np.float64)

    class Wrong(FusedLayers):
        def forward(self, hidden_states: torch.Tensor, *arguments: Any, **options: Any) -> Any:
            return super().forward(hidden_states + 0.1 * hidden_states.roll(1, dims=-1), *arguments, **options)

    monkeypatch.setattr(fused_bert, "FusedLayers", Wrong)
    plain = TextTeacher(str(tiny))
    assert not isinstance(plain._model[0].model.encoder, FusedLayers)
    np.testing.assert_allclose(plain.encode(captions).astype(np.float64), rows, atol=1e-3)
