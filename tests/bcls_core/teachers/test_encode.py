"""What the teacher gives against the library's own encode, on small encoders that need no download."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, StaticEmbedding

from bcls_core.errors import ModelError
from bcls_core.teachers import text
from bcls_core.teachers.text import TextTeacher, teacher_fingerprint
from tests.bcls_core.teachers.conftest import WIDTH, WORDS


def captions(count: int = 300, seed: int = 0) -> list[str]:
    generator = np.random.default_rng(seed)
    found = [" ".join(generator.choice(WORDS, size)) for size in generator.integers(1, 40, count)]
    return [*found, "", *found[:40], "unheard words", " "]


def assert_same(rows: np.ndarray, expected: np.ndarray) -> None:
    unit = expected.astype(np.float64) / np.linalg.norm(expected.astype(np.float64), axis=1, keepdims=True)
    wide = rows.astype(np.float64)
    cosine = np.einsum("nd,nd->n", wide, unit) / np.linalg.norm(wide, axis=1)
    assert cosine.min() > 1 - 1e-6
    np.testing.assert_allclose(wide, unit, atol=5e-4)


@pytest.mark.parametrize("side", ["tiny", "tiny_left"])
@pytest.mark.parametrize("prompt", ["", "a man with "])
def test_rows_are_those_of_the_library(side: str, prompt: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(side)
    library = SentenceTransformer(str(folder), device="cpu").encode(captions(), prompt=prompt, batch_size=1)
    assert_same(TextTeacher(str(folder), prompt=prompt).encode(captions()), library)


def test_a_prompt_that_is_left_out_of_the_pooling(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "encoder")
    config = next(folder.glob("*Pooling/config.json"))
    config.write_text(json.dumps(json.loads(config.read_text()) | {"include_prompt": False}))
    texts = [caption for caption in captions() if caption.strip()]
    library = SentenceTransformer(str(folder), device="cpu").encode(texts, prompt="a man", batch_size=1)
    rows = TextTeacher(str(folder), prompt="a man").encode(texts)
    assert_same(rows, library)
    whole = TextTeacher(str(tiny), prompt="a man").encode(texts)
    assert np.abs(rows.astype(float) - whole.astype(float)).max() > 1e-2


def test_more_modules_and_fewer_numbers(tiny: Path, tmp_path: Path) -> None:
    encoder = SentenceTransformer(str(tiny), device="cpu")
    torch.manual_seed(0)
    SentenceTransformer(modules=[*encoder, Dense(WIDTH, 12), Normalize()], device="cpu").save(str(tmp_path / "dense"))
    teacher = TextTeacher(str(tmp_path / "dense"))
    assert teacher.dimension == 12
    library = SentenceTransformer(str(tmp_path / "dense"), device="cpu").encode(captions(), batch_size=1)
    assert_same(teacher.encode(captions()), library)


def test_features_that_are_no_rectangle_are_encoded_as_the_library_does(tiny: Path, tmp_path: Path) -> None:
    tokenizer = SentenceTransformer(str(tiny), device="cpu").tokenizer.backend_tokenizer
    torch.manual_seed(0)
    static = StaticEmbedding(tokenizer, embedding_dim=8)
    SentenceTransformer(modules=[static], device="cpu").save(str(tmp_path / "static"))
    texts = [caption for caption in captions(1200) if caption.strip()]
    library = SentenceTransformer(str(tmp_path / "static"), device="cpu").encode(texts)
    assert_same(TextTeacher(str(tmp_path / "static")).encode(texts), library)


def test_threads_do_not_change_a_bit_and_are_given_back(tiny: Path) -> None:
    teacher, before, found = TextTeacher(str(tiny)), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(teacher.encode(captions()).tobytes())
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_rows_follow_the_captions(tiny: Path) -> None:
    teacher, texts = TextTeacher(str(tiny)), captions()
    turned = np.random.default_rng(3).permutation(len(texts))
    rows, others = teacher.encode(texts), teacher.encode([texts[place] for place in turned])
    np.testing.assert_allclose(others.astype(float), rows[turned].astype(float), atol=1e-3)
    assert teacher.encode([]).shape == (0, WIDTH)


def test_bfloat16_is_taken_if_it_is_exact_enough(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = TextTeacher(str(tiny), precision="float32")
    half = TextTeacher(str(tiny), precision="bfloat16")
    assert (exact.dtype, half.dtype) == ("float32", "bfloat16")
    assert exact.fingerprint == half.fingerprint
    rows, others = (teacher.encode(captions()).astype(np.float64) for teacher in (exact, half))
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(others, axis=1)
    cosine = np.einsum("nd,nd->n", rows, others) / norms
    assert cosine.min() > text.LEAST_COSINE
    assert rows.tobytes() != others.tobytes()
    monkeypatch.setattr(text, "LEAST_COSINE", 1 - 1e-12)
    with pytest.raises(ModelError, match="in bfloat16 gives embeddings of cosine"):
        TextTeacher(str(tiny), precision="bfloat16")
    monkeypatch.setattr(text, "_computes_in_bfloat16", lambda _: True)
    assert TextTeacher(str(tiny)).dtype == "float32"


def test_another_width_than_it_says_is_found_when_the_model_is_loaded(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "encoder")
    config = next(folder.glob("*Pooling/config.json"))
    said = json.loads(config.read_text())
    config.write_text(json.dumps({name: 48 if value == WIDTH else value for name, value in said.items()}))
    with pytest.raises(ModelError, match="have 48 numbers, and gives an array of shape"):
        TextTeacher(str(folder))


class DropsARow(torch.nn.Module):
    """Like a module that filters what it is given."""

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return features | {"sentence_embedding": features["sentence_embedding"][1:]}


def test_fewer_rows_than_captions_are_an_error(tiny: Path) -> None:
    teacher = TextTeacher(str(tiny))
    teacher._model.append(DropsARow())
    with pytest.raises(ModelError, match="gives an array of shape"):
        teacher.encode(captions())


def test_weights_of_nan_are_found_when_the_model_is_loaded(tiny: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny, tmp_path / "encoder")
    path = next(folder.rglob("model.safetensors"))
    weights = load_file(path)
    weights["embeddings.LayerNorm.weight"][3] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"norms .*nan.* for ordinary sentences"):
        TextTeacher(str(folder))


def test_the_fingerprint_says_how_batches_are_cut(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = teacher_fingerprint(str(tiny))
    assert before == TextTeacher(str(tiny)).fingerprint
    monkeypatch.setitem(text.BATCH_TOKENS, "cpu", 64)
    assert teacher_fingerprint(str(tiny)) != before
