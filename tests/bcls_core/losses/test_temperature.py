from __future__ import annotations

import math

import pytest
import torch
from torch.func import functional_call

from bcls_core.errors import ConfigError, ShapeError
from bcls_core.losses.temperature import Temperature, require_scalar, require_temperature, temperature_of, tempered
from bcls_core.workers import Workers

LOWEST, HIGHEST = 0.01, 0.10


class Beside(Workers):
    """One of two workers; what the other one adds to any sum is known."""

    def __init__(self, other: float) -> None:
        super().__init__(0, 2)
        object.__setattr__(self, "other", other)

    def sum(self, values):
        return values.detach() + self.other


def at(tau: float) -> Temperature:
    """A temperature that steps have carried to `tau`, wherever that is."""
    temperature = Temperature(0.05, lowest=LOWEST, highest=HIGHEST)
    with torch.no_grad():
        temperature.log_tau.fill_(math.log(tau))
    return temperature


@pytest.mark.parametrize("start", [LOWEST, 0.05, HIGHEST])
def test_starts_where_told_as_a_float32_scalar(start):
    temperature = Temperature(start, lowest=LOWEST, highest=HIGHEST)
    tau = temperature()
    assert tau.shape == ()
    assert tau.dtype is torch.float32
    assert tau.item() == pytest.approx(start, rel=1e-6)
    assert temperature.log_tau.item() == pytest.approx(math.log(start), rel=1e-7)
    assert [name for name, _ in temperature.named_parameters()] == ["log_tau"]


@pytest.mark.parametrize("raw", [1e-30, 0.00999, 0.0101, 0.0999, 0.1001, 1e30])
def test_is_never_outside_of_its_bounds(raw):
    tau = at(raw).double()()
    assert LOWEST <= tau.item() <= HIGHEST
    assert tau.item() == pytest.approx(min(max(raw, LOWEST), HIGHEST), rel=1e-5)


def test_gradient_inside_is_that_of_finite_differences():
    temperature = at(0.03).double()

    def loss(log_tau):
        return functional_call(temperature, {"log_tau": log_tau}, ()) ** 2

    assert torch.autograd.gradcheck(loss, (temperature.log_tau,))


@pytest.mark.parametrize("slope", [3.0, -3.0])
def test_gradient_inside_is_relative(slope):
    temperature = at(0.03)
    (slope * temperature()).backward()
    assert temperature.log_tau.grad.item() == pytest.approx(slope * 0.03, rel=1e-6)


@pytest.mark.parametrize(
    ("raw", "slope", "expected"),
    [
        (0.2, 3.0, 3.0 * HIGHEST),  # descent lowers tau: back inside
        (0.2, -3.0, 0.0),
        (0.2, 0.0, 0.0),
        (0.001, -3.0, -3.0 * LOWEST),
        (0.001, 3.0, 0.0),
        (1e30, 3.0, 3.0 * HIGHEST),  # by the bound, not by where the parameter is: it neither explodes
        (1e-30, -3.0, -3.0 * LOWEST),  # nor vanishes
    ],
)
def test_outside_only_what_leads_back_is_kept(raw, slope, expected):
    temperature = at(raw)
    (slope * temperature()).backward()
    assert temperature.log_tau.grad.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("raw", "target", "bound"), [(0.4, 0.03, HIGHEST), (0.002, 0.03, LOWEST)])
def test_descent_brings_a_value_back_and_carries_none_away(raw, target, bound):
    for goal, comes_back in ((target, True), (raw, False)):
        temperature = at(raw)
        before = temperature.log_tau.item()
        optimiser = torch.optim.SGD(temperature.parameters(), lr=100.0)
        for _ in range(150):
            optimiser.zero_grad()
            ((temperature() - goal) ** 2).backward()
            optimiser.step()
        if comes_back:
            assert temperature().item() == pytest.approx(target, rel=1e-2)
        else:
            assert temperature.log_tau.item() == before
            assert temperature().item() == pytest.approx(bound, rel=1e-6)


def test_two_forwards_may_precede_one_backward():
    temperature = at(0.2)
    first = temperature()
    second = temperature()
    (2 * first + 3 * second - 4 * temperature()).backward()
    assert temperature.log_tau.grad.item() == pytest.approx(5 * HIGHEST, rel=1e-6)  # each forward judged by itself


@pytest.mark.parametrize(
    ("mine", "other", "expected"),
    [(3.0, -1.0, 3.0), (3.0, -4.0, 0.0), (-1.0, 3.0, -1.0), (-4.0, 3.0, 0.0), (3.0, -3.0, 0.0)],
)
def test_all_workers_decide_as_one(mine, other, expected):
    temperature = at(0.2)
    (mine * temperature(Beside(other))).backward()
    assert temperature.log_tau.grad.item() == pytest.approx(expected * HIGHEST, rel=1e-6)


@pytest.mark.parametrize("raw", [0.03, 0.2])
def test_compiles_as_one_graph(raw):
    def loss(temperature):
        return 2 * temperature() + temperature() ** 2

    eager, compiled = at(raw), at(raw)
    loss(eager).backward()
    torch.compile(loss, fullgraph=True, backend="aot_eager")(compiled).backward()
    torch.testing.assert_close(compiled.log_tau.grad, eager.log_tau.grad)


def test_survives_saving_and_says_what_it_is():
    temperature = Temperature(0.05, lowest=LOWEST, highest=HIGHEST)
    temperature.load_state_dict(at(0.02).state_dict())
    assert temperature().item() == pytest.approx(0.02, rel=1e-6)
    assert repr(temperature) == "Temperature(start=0.05, lowest=0.01, highest=0.1)"


@pytest.mark.parametrize(
    ("start", "lowest", "highest"),
    [
        (0.2, 0.01, 0.1),
        (0.001, 0.01, 0.1),
        (0.0, 0.0, 0.1),
        (-0.05, -0.1, 0.1),
        (float("nan"), 0.01, 0.1),
        (0.05, 0.1, 0.01),
        (math.inf, 0.01, math.inf),
    ],
)
def test_a_start_outside_of_positive_bounds_is_refused(start, lowest, highest):
    with pytest.raises(ConfigError, match=f"temperature: starts at {start} with bounds .*Start inside"):
        Temperature(start, lowest=lowest, highest=highest)


def test_a_temperature_is_read_and_anything_else_passed_on():
    tensor = torch.tensor(0.3)
    assert temperature_of(0.3) == 0.3
    assert temperature_of(tensor) is tensor
    assert temperature_of(at(0.2)).item() == pytest.approx(HIGHEST)


def test_what_is_no_temperature_is_refused():
    require_temperature("tau", 0.1)
    require_temperature("tau", torch.tensor(0.1))
    with pytest.raises(ConfigError, match=r"tau: 0\.0, expected a number above 0"):
        require_temperature("tau", 0.0)
    for check in (require_temperature, require_scalar):
        with pytest.raises(ShapeError, match=r"tau: shape \(1,\), expected a number or a tensor of shape \(\)"):
            check("tau", torch.tensor([0.1]))


def test_tempered_rows_have_the_softmax_of_the_quotient():
    scores = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    logits = tempered(scores, 0.3)
    assert torch.equal(logits.amax(1), torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(logits.softmax(1), (scores / 0.3).softmax(1))


def test_tempered_overflows_downwards_only():
    scores = torch.tensor([[3e38, 0.0, -3e38], [1.0, 1.0, 1.0]])
    assert tempered(scores, 0.01).tolist() == [[0.0, -math.inf, -math.inf], [0.0, 0.0, 0.0]]


def test_a_temperature_gets_a_gradient_beside_quotients_that_overflow():
    tau = torch.tensor(0.01, requires_grad=True)
    tempered(torch.eye(3) * 1e38, tau).softmax(1).diagonal().sum().backward()
    assert tau.grad.item() == 0.0
