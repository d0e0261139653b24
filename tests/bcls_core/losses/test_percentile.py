from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bcls_core.errors import ConfigError
from bcls_core.losses import percentile as source
from bcls_core.losses.percentile import Numbers, percent_of, percentile
from bcls_core.workers import Workers

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
PERCENTS = [0, 0.01, 10, 37.3, 50, 70, 99.9, 100]
JOINT_PERCENTS = [0, 70]
MANY = 200_000


def assert_numpys(found, values, percent):
    """An order statistic must be exact; between two of them a rounding of either is the difference allowed."""
    wide = values.double().numpy()
    lower, higher = (np.percentile(wide, percent, method=method) for method in ("lower", "higher"))
    if lower == higher:
        assert found == lower
    rounding = 4e-16 * max(abs(lower), abs(higher)) + 1e-323
    assert found == pytest.approx(np.percentile(wide, percent), rel=0, abs=rounding)


def count_splits(patch):
    """How often numbers are split from now on, as a list of one count; a search without end is stopped."""
    counted, split = [0], Numbers.split

    def counting(self, at):
        counted[0] += 1
        assert counted[0] <= 3 * 64
        return split(self, at)

    patch.setattr(Numbers, "split", counting)
    return counted


@st.composite
def lists_of_numbers(draw):
    dtype = draw(st.sampled_from(DTYPES))
    limits = torch.finfo(dtype)
    smallest = limits.smallest_normal * limits.eps  # the smallest denormal
    special = [0.0, -0.0, smallest, -smallest, 3 * smallest, limits.tiny, 1.0, 1 + limits.eps, -1.0, limits.max / 4]
    anything = {
        torch.float64: st.floats(-1e307, 1e307),
        torch.float32: st.floats(width=32, allow_nan=False, allow_infinity=False),
        torch.bfloat16: st.floats(-(2.0**127), 2.0**127, width=32),
        torch.float16: st.floats(width=16, allow_nan=False, allow_infinity=False),
    }[dtype]
    values = draw(st.lists(st.one_of(st.sampled_from(special), st.floats(-1, 1), anything), min_size=1, max_size=30))
    return torch.tensor(values, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("sample", [source._SAMPLE, 3], ids=["exact guesses", "rough guesses"])
@settings(max_examples=80, deadline=None)
@given(values=lists_of_numbers(), percent=st.one_of(st.sampled_from(PERCENTS), st.floats(0, 100)))
@example(values=torch.tensor([-0.0, 0.0, -0.0]), percent=50)
@example(values=torch.tensor([0.0, -5e-324, 5e-324, -0.0], dtype=torch.float64), percent=70)
@example(values=torch.tensor([3.4e38, -3.4e38]), percent=50)
def test_equals_numpys(sample, values, percent):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "_SAMPLE", sample)
        count_splits(patch)
        assert_numpys(percentile(Numbers(values), percent), values, percent)


def test_a_few_numbers_by_hand():
    values = torch.tensor([0.4, 0.1, 0.2, 0.8], dtype=torch.float64)  # ranks 0 to 3: 50 is rank 1.5, 70 is rank 2.1
    for percent, expected in ((0, 0.1), (50, 0.3), (70, 0.44), (100, 0.8)):
        assert percentile(Numbers(values), percent) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("percent", [0, 50, 99.5, 100])
def test_none_one_and_equal_numbers(dtype, percent):
    assert percentile(Numbers(torch.zeros(0, dtype=dtype)), percent) == 0.0
    for value in (-2.5, 0.0, 6e4):
        expected = torch.tensor(value, dtype=dtype).item()
        assert percentile(Numbers(torch.full((1,), value, dtype=dtype)), percent) == expected
        assert percentile(Numbers(torch.full((7,), value, dtype=dtype)), percent) == expected


def random_numbers():
    """Distributions that samples tell well."""
    rng = np.random.default_rng(1)
    return {
        "normal": rng.standard_normal(MANY),
        "uniform": rng.random(MANY),
        "sorted": np.sort(rng.standard_normal(MANY))[::-1].copy(),
        "exponential": rng.exponential(size=MANY) / 16,
        "magnitudes": np.exp(rng.uniform(-9, 9, MANY)) * rng.choice([-1, 1], MANY),
        "grid": rng.integers(-50, 50, MANY) / 50,
    }


def adversarial_numbers():
    """Distributions that evenly spread samples, means of them, or halving an interval would tell wrong."""
    rng = np.random.default_rng(2)
    stride = -(-MANY // source._SAMPLE)
    sampled = np.arange(MANY) % stride == 0
    return {
        "the sample is above": np.where(sampled, 6e4, rng.random(MANY)),
        "the sample is below": np.where(sampled, -6e4, rng.random(MANY) * 1e-3),
        "clusters": np.where(rng.random(MANY) < 0.9999, 1 + rng.integers(0, 3, MANY) * 1e-7, rng.uniform(-6e4, 6e4)),
        "all magnitudes": np.exp(rng.uniform(-700, 11, MANY)) * rng.choice([-1, 1], MANY),
        "one outlier": np.where(np.arange(MANY) == 7, 6e4, rng.random(MANY) * 1e-7),
        "two values": np.where(rng.random(MANY) < 0.7, -0.25, 0.25),
    }


@pytest.fixture
def splits(monkeypatch):
    return count_splits(monkeypatch)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("numbers", "most"), [(random_numbers, 12), (adversarial_numbers, None)])
def test_many_numbers_need_few_splits(numbers, most, dtype, splits):
    for values in map(torch.from_numpy, numbers().values()):
        narrow = values.to(dtype)
        for percent in (0.01, 70, 100):
            splits[0] = 0
            assert_numpys(percentile(Numbers(narrow), percent), narrow, percent)
            assert splits[0] <= (most or 3 * dtype.itemsize * 8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("guess", [float("inf"), -float("inf"), 0.0])
def test_guesses_that_are_always_wrong_cost_three_splits_a_bit_at_most(dtype, guess, splits, monkeypatch):
    monkeypatch.setattr(source, "_guess", lambda *_: guess)
    rng = np.random.default_rng(3)
    values = torch.from_numpy(np.exp(rng.uniform(-9, 9, 5000)) * rng.choice([-1, 1], 5000)).to(dtype)
    for percent in PERCENTS:
        splits[0] = 0
        assert_numpys(percentile(Numbers(values), percent), values, percent)
        assert splits[0] <= 3 * dtype.itemsize * 8


def test_parts_of_a_split_are_what_is_at_most_the_number_and_what_is_above():
    values = torch.tensor([0.3, -1.0, 0.25, 2.0, 0.25])
    low, high = Numbers(values).split(0.25)
    assert low.values.tolist() == [-1.0, 0.25, 0.25]
    assert high.values.tolist() == values[[0, 3]].tolist()
    assert (int(low.size), *(bound.item() for bound in low.bounds)) == (3, -1.0, 0.25)
    assert [bound.item() for bound in Numbers(values[:0]).bounds] == [float("inf"), -float("inf")]


@pytest.mark.parametrize(("size", "wanted"), [(0, 4), (3, 4), (4, 4), (5, 4), (100, 7)])
def test_samples_are_spread_evenly_and_everything_where_there_is_less(size, wanted):
    sample = Numbers(torch.arange(float(size))).sample(wanted)
    steps = sample.diff().unique()
    assert len(sample) == size if size <= wanted else wanted / 2 < len(sample) <= wanted
    assert len(steps) <= 1
    assert size - (sample[-1] if size else 0) <= (steps.item() if len(steps) else 1)


def test_what_is_asked_for_is_where_the_mask_is_true_and_has_no_gradient():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    numbers = Numbers.where(torch.tensor([[True, False], [False, True]]), values)
    assert numbers.values.tolist() == [1.0, 4.0]
    assert not numbers.values.requires_grad
    assert numbers.dtype is torch.float32


@pytest.mark.parametrize(("text", "expected"), [("p60", 60.0), ("p0", 0.0), ("p100", 100.0), ("p99.5", 99.5)])
def test_a_percentile_is_read(text, expected):
    assert percent_of("threshold", text) == expected


@pytest.mark.parametrize("text", ["", "60", "p", "p-1", "q60", "p60%", "p1000", "p100.5", "p.5", "p60 ", "p60\n"])
def test_what_is_no_percentile_is_refused(text):
    with pytest.raises(ConfigError, match=r"threshold: .*expected a number in label units or a percentile"):
        percent_of("threshold", text)


def holdings(size):
    """By name, what each of so many workers holds; always one of them nothing: the first or the last."""
    rng = np.random.default_rng(4)
    many = np.sort(rng.standard_normal(40_000)) * 100
    parts = {
        "a few": np.split(np.array([0.5, -0.25, 0.5, 0.0, -0.0, 7.0, 1e-7]), [2][: size - 2]),
        "each its own range": np.split(many, [31_000][: size - 2]),
        "the same range": np.split(rng.permutation(many), [1_000][: size - 2]),
        "equal": [np.full(5 + rank, 0.3) for rank in range(size - 1)],
        "nothing": [np.zeros(0)] * (size - 1),
    }
    empty = {name: (size - 1) * (turn % 2) for turn, name in enumerate(parts)}
    return {name: [*held[: empty[name]], np.zeros(0), *held[empty[name] :]] for name, held in parts.items()}


def held_by(rank, held, dtype):
    return torch.from_numpy(held[rank]).to(dtype)


def worker(rank, size, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    workers = Workers.of_process_group()
    found = {
        (name, dtype, percent): percentile(Numbers(held_by(rank, held, dtype)), percent, workers)
        for name, held in holdings(size).items()
        for dtype in DTYPES
        for percent in JOINT_PERCENTS
    }
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("size", [2, 3])
def test_workers_find_the_percentile_of_all_numbers_though_one_has_none(size, tmp_path):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    mp.spawn(worker, args=(size, str(tmp_path)), nprocs=size)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(size)]
    for name, held in holdings(size).items():
        for dtype in DTYPES:
            union = torch.cat([held_by(rank, held, dtype) for rank in range(size)])
            for percent in JOINT_PERCENTS:
                results = [of_one[name, dtype, percent] for of_one in found]
                assert len(set(results)) == 1, (name, dtype, percent)
                if len(union):
                    assert_numpys(results[0], union, percent)
                else:
                    assert results[0] == 0.0
