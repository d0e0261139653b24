"""Inputs of students: pixels and tokens as their definitions say, and objects that travel to data workers."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bcls_core.errors import CorpusError, ModelError
from bcls_core.students import Preprocessor, Student
from bcls_core.students.preprocess import CaptionPreprocessor, ProcessorImages, SquareImages
from bcls_core.students.tokenizer import build_tokenizer


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_square_images_are_pixels_scaled_to_minus_one_to_one(images: list[Image.Image]) -> None:
    square = images[0].resize((16, 16))
    pixels = SquareImages(16)([encoded(square), square])["pixel_values"]
    expected = (np.asarray(square, dtype=np.float64).transpose(2, 0, 1) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(pixels.numpy(), np.stack([expected, expected]), atol=1e-6)
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous()


def test_square_images_change_the_shape_of_others(images: list[Image.Image]) -> None:
    pixels = SquareImages(8)(images)["pixel_values"]
    whole = np.asarray(images[2], dtype=np.float64)
    assert pixels.shape == (4, 3, 8, 8)
    # Shrinking keeps the mean colour.
    assert pixels[2].mean().item() == pytest.approx(whole.mean() / 127.5 - 1, abs=0.02)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_every_colour_mode_becomes_rgb(images: list[Image.Image], mode: str) -> None:
    image = images[0].convert(mode)
    file = encoded(image, "JPEG" if mode == "CMYK" else "PNG")
    assert SquareImages(8)([file])["pixel_values"].shape == (1, 3, 8, 8)


def test_exif_orientation_is_applied() -> None:
    top_white = np.zeros((16, 16, 3), dtype=np.uint8)
    top_white[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise: what was at the top is at the right
    file = encoded(Image.fromarray(top_white), exif=exif)
    pixels = SquareImages(16)([file])["pixel_values"][0, 0]
    assert (pixels[:, :7] == -1).all()
    assert (pixels[:, 9:] == 1).all()


@pytest.mark.parametrize("file", [b"", b"no image", None])
def test_an_undecodable_image_is_named(images: list[Image.Image], file: bytes | None) -> None:
    broken = file if file is not None else encoded(images[0])[:-400]
    with pytest.raises(CorpusError, match="image 1 of 2: cannot be decoded"):
        SquareImages(8)([images[0], broken])


def test_a_processor_gives_what_it_gives_in_transformers(clip_folder: Path, images: list[Image.Image]) -> None:
    from transformers import CLIPImageProcessorPil

    ours = ProcessorImages.from_folder(clip_folder)([encoded(image) for image in images])["pixel_values"]
    theirs = CLIPImageProcessorPil.from_pretrained(clip_folder)(images=images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert ours.shape == (4, 3, 32, 32)


def test_a_folder_without_processor_or_tokenizer_says_what_to_add(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"preprocessor_config\.json"):
        ProcessorImages.from_folder(tmp_path)
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        CaptionPreprocessor.load_tokenizer(tmp_path)


def test_captions_are_padded_to_the_longest_and_cut_at_the_most_tokens(captions: list[str]) -> None:
    prepare = CaptionPreprocessor(build_tokenizer(captions, vocabulary=50, max_tokens=6), max_tokens=6)
    prepared = prepare(["a cat", "a red ball lies on a blue box"])
    assert prepared.keys() == {"input_ids", "attention_mask"}
    assert prepared["input_ids"].shape == (2, 6)
    assert prepared["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0], [1] * 6]
    assert prepared["input_ids"].dtype == torch.int64


def test_a_preprocessor_travels_without_the_weights(build: Callable[..., Student], captions: list[str]) -> None:
    student = build(text={"config": {"model_type": "bert", "hidden_size": 256, "num_attention_heads": 2}})
    pickled = pickle.dumps(student.preprocessor)
    assert len(pickled) < 20_000
    travelled: Preprocessor = pickle.loads(pickled)  # noqa: S301 - pickled two lines above
    for name, tensor in travelled.prepare_captions(captions).items():
        assert torch.equal(tensor, student.prepare_captions(captions)[name])


def test_use_leaves_no_trace_in_the_saved_files(build: Callable[..., Student], tmp_path: Path) -> None:
    student = build()
    files = []
    for name in ("fresh", "used"):
        student.preprocessor.save(tmp_path / name)
        files.append({path.name: path.read_bytes() for path in (tmp_path / name / "tokenizer").iterdir()})
        student.prepare_captions(["a longer caption than before", "short"])
    assert files[0] == files[1]


def test_the_file_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    for write, said in (
        (lambda: None, "holds config.json and preprocessor_config.json; add config.json"),
        (lambda: (tmp_path / "config.json").write_text("{"), "Its config.json is no JSON"),
        (lambda: (tmp_path / "config.json").write_text("{}"), "add preprocessor_config.json"),
        (lambda: (tmp_path / "preprocessor_config.json").write_text("{"), "Its preprocessor_config.json is no JSON"),
        (lambda: (tmp_path / "preprocessor_config.json").write_text("{}"), "name a model whose processor"),
    ):
        write()
        with pytest.raises(ModelError) as refused:
            ProcessorImages.from_folder(tmp_path)
        assert said in str(refused.value)
