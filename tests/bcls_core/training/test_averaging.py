"""The moving average of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bcls_core.training.averaging import MovingAverage


def moved(model: nn.Linear, average: MovingAverage, values: list[float]) -> None:
    for value in values:
        with torch.no_grad():
            model.weight.fill_(value)
        average.move()


def test_it_forgets_the_beginning_soon_and_the_rest_slowly() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(8.0)
    average = MovingAverage(model, 0.25)
    expected = 8.0
    values = [4.0, 2.0, 6.0, 0.0]
    moved(model, average, values)
    for step, value in enumerate(values):
        keep = min(0.25, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * value
    with average.applied():
        assert float(model.weight.detach()) == pytest.approx(expected, rel=1e-6)
        assert expected != 0.0
    assert float(model.weight.detach()) == 0.0, "afterwards the model has its own weights again"


def test_it_goes_on_where_it_was() -> None:
    models = [nn.Linear(1, 1) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    whole, first = (MovingAverage(model, 0.9) for model in models)
    moved(models[0], whole, [1.0, 2.0, 3.0, 4.0])
    moved(models[1], first, [1.0, 2.0])
    second = MovingAverage(models[1], 0.9)
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    moved(models[1], second, [3.0, 4.0])
    with whole.applied(), second.applied():
        assert torch.equal(models[0].weight, models[1].weight)


def test_what_is_never_trained_has_no_average() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert set(MovingAverage(model, 0.9).state_dict()) == {"steps", "average.weight"}
