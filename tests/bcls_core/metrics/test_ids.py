from __future__ import annotations

import numpy as np
import pytest
import torch

from bcls_core.errors import ShapeError
from bcls_core.metrics.ids import require_ids


@pytest.mark.parametrize(
    "values",
    [
        [3, 1],
        np.array([3, 1], np.uint16),
        torch.tensor([3, 1]),
        ["b", "a"],
        np.array(["b", "a"]),
        np.array(["b", "a"], dtype=object),
    ],
)
def test_whole_numbers_and_texts_are_ids(values):
    assert require_ids("image", values, 2).tolist() == list(values)


@pytest.mark.parametrize(
    "values",
    [
        [3.0, 1.0],
        [True, False],
        [3, 1, 2],
        [[3, 1]],
        np.array([None, "a"], dtype=object),
        np.array([b"a", b"b"]),
        torch.tensor([0.5, 1]),
        3,
    ],
)
def test_anything_else_is_refused(values):
    with pytest.raises(ShapeError, match=r"^image: .*expected \(2,\) whole numbers or texts"):
        require_ids("image", values, 2)
