from __future__ import annotations

import numpy as np
import pytest
import torch

from bcls_core.errors import ShapeError
from bcls_core.metrics.strips import MatrixStrips, Products, Strips, strips_of


@pytest.mark.parametrize(
    "form",
    [
        np.asarray,
        lambda a: a.astype(np.float16),
        lambda a: np.asfortranarray(a.astype(np.float32)),
        torch.tensor,
        lambda a: torch.tensor(a).bfloat16(),
        lambda a: torch.tensor(a).int(),
        lambda a: torch.tensor(a) > 2,
    ],
)
def test_a_matrix_is_read_by_rows_and_by_columns(form):
    values = form(np.arange(12.0).reshape(3, 4))
    strips = MatrixStrips("scores", values)
    expected = np.asarray(torch.as_tensor(values).double())
    assert (strips.images, strips.captions) == (3, 4)
    assert (strips.image_rows(1, 3).astype(float) == expected[1:3]).all()
    assert (strips.caption_rows(1, 4).astype(float) == expected.T[1:4]).all()
    assert isinstance(strips, Strips)
    assert strips_of("scores", strips) is strips


def test_nan_is_named_by_row_and_column_in_either_direction():
    values = np.zeros((3, 4))
    values[2, 1] = np.nan
    strips = MatrixStrips("labels", values)
    for read in (lambda: strips.image_rows(0, 3), lambda: strips.caption_rows(1, 3)):
        with pytest.raises(ShapeError, match="labels: nan at row 2, column 1"):
            read()
    assert strips.image_rows(0, 2).shape == (2, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_products_are_float64_products_rounded_once(dtype):
    generator = torch.Generator().manual_seed(0)
    images, captions = (torch.randn(n, 37, generator=generator).to(dtype) for n in (5, 9))
    exact = (images.double() @ captions.double().T).float().numpy()
    products = Products(images, captions)
    assert (products.image_rows(0, 5) == exact).all()
    assert (products.caption_rows(2, 9) == exact.T[2:9]).all()
    image, caption = np.divmod(np.arange(45), 9)
    assert (products.pairs(image, caption).reshape(5, 9) == exact).all()


def test_scores_have_one_zero():
    products = Products(np.array([[-1.0, 0.0]]), np.array([[0.0, 1.0]]))
    both = np.array([products.image_rows(0, 1)[0, 0], products.pairs(np.array([0]), np.array([0]))[0]])
    assert not np.signbit(both).any()


@pytest.mark.parametrize(
    ("images", "captions", "message"),
    [
        (np.ones(3), np.ones((2, 3)), r"image_encodings: shape \(3,\)"),
        (np.ones((2, 3)), np.ones((2, 4)), "caption_encodings: 4 dimensions, but image_encodings have 3"),
        (np.ones((2, 3)), np.full((2, 3), np.nan), "caption_encodings: nan at row 0, column 0"),
        (np.array([[1.0, -np.inf]]), np.ones((2, 2)), "image_encodings: infinite at row 0, column 1"),
        (np.full((1, 2), 1e30), np.full((1, 2), 1e30), "overflow float32"),
        (np.full((1, 2), 1e300), np.full((1, 2), 1e300), "overflow float32"),
    ],
)
def test_encodings_without_products_are_refused(images, captions, message):
    with pytest.raises(ShapeError, match=message):
        Products(images, captions)


def test_layouts_that_torch_does_not_take_are_copied():
    values = np.arange(12.0).reshape(3, 4)
    for form in (values[::-1][::-1], values[:1, ::-1], values.astype(">f4"), values[:, :1][:, ::-1]):
        strips = MatrixStrips("scores", form)
        assert (strips.image_rows(0, len(form)) == form.astype(float)).all()
        assert (strips.caption_rows(0, form.shape[1]) == form.astype(float).T).all()


@pytest.mark.parametrize("values", [np.ones((2, 2), complex), np.ones((2, 2), object), torch.ones(2, 2) * 1j])
def test_what_is_no_real_number_is_refused(values):
    with pytest.raises(ShapeError, match="expected real numbers"):
        MatrixStrips("scores", values)
