"""What crosses between workers arrives whole: rows, their gradients, sums and largest values."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from bcls_core.errors import ShapeError
from bcls_core.workers import Workers

SIZES = (3, 1, 2)


def rows_of(rank: int) -> Tensor:
    return torch.arange(SIZES[rank] * 2, dtype=torch.float64).reshape(-1, 2) + 10 * rank


def weights_of(rank: int) -> Tensor:
    """What a worker multiplies everybody's rows with, another for each worker."""
    return torch.arange(sum(SIZES), dtype=torch.float64)[:, None] * (rank + 1)


def partly_trained(rank: int) -> list[nn.Parameter]:
    """The first has a gradient on the last worker only, the second everywhere, the others nowhere."""
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(3))]
    if rank == 2:
        parameters[0].grad = torch.tensor([6.0, 6.0])
    parameters[1].grad = (rank + 1) * torch.tensor([[1.0, 3.0], [2.0, 4.0]]).T
    return [*parameters, nn.Parameter(torch.zeros(2), requires_grad=False)]


def buffers_of(rank: int) -> nn.Module:
    """Of several types, one strided, one transposed, one empty."""
    module = nn.Module()
    for name, dtype in {
        "an_int8": torch.int8,
        "an_int16": torch.int16,
        "a_half": torch.float16,
        "an_int64": torch.int64,
    }.items():
        module.register_buffer(name, torch.full((3,), rank + 1, dtype=dtype))
    module.register_buffer("flag", torch.tensor(rank == 0))
    module.register_buffer("strided", torch.arange(8.0)[::2] + rank)
    module.register_buffer("transposed", (torch.arange(6.0).view(2, 3) + rank).T)
    module.register_buffer("a_complex", torch.full((2,), rank + 1j, dtype=torch.complex64))
    module.register_buffer("empty", torch.zeros(0))
    return module


def worker(rank: int, size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    workers = Workers.of_process_group()
    rows = rows_of(rank).requires_grad_()
    gathered = workers.gather(rows, SIZES)
    (gathered * weights_of(rank)).sum().backward()
    temperature = nn.Parameter(torch.tensor(2.0))
    (temperature * (rank + 1)).backward()
    workers.average_gradients([temperature, nn.Parameter(torch.zeros(2))])
    norm = nn.BatchNorm1d(2)
    norm.running_mean.fill_(rank + 1)
    workers.share_buffers(norm)
    others = partly_trained(rank)
    workers.average_gradients(others)
    kept = buffers_of(rank)
    workers.share_buffers(kept)
    found = {
        "elsewhere": others[0].grad,
        "everywhere": others[1].grad,
        "nowhere": torch.tensor(others[2].grad is None and others[3].grad is None),
        "like the first's": torch.tensor(
            all(torch.equal(one, other) for one, other in zip(kept.buffers(), buffers_of(0).buffers(), strict=True))
        ),
        "gathered": gathered.detach(),
        "gradient": rows.grad,
        "sum": workers.sum(torch.tensor([1.0, rank])),
        "largest": workers.largest(torch.tensor([-1.0 * rank, rank])),
        "temperature": temperature.grad,
        "buffer": norm.running_mean,
    }
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("workers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        mp.spawn(worker, args=(3, str(folder)), nprocs=3)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(3)]


def test_everybody_has_all_rows_in_rank_order(found: list[dict[str, Tensor]]) -> None:
    expected = torch.cat([rows_of(rank) for rank in range(3)])
    for results in found:
        assert torch.equal(results["gathered"], expected)


def test_a_row_gets_the_gradients_of_all_who_used_it(found: list[dict[str, Tensor]]) -> None:
    everybody = sum(weights_of(rank) for rank in range(3))
    for rank, results in enumerate(found):
        mine = everybody[Workers(rank, 3).rows(SIZES)].expand(-1, 2)
        assert torch.equal(results["gradient"], mine)


def test_sums_largest_values_gradients_and_buffers(found: list[dict[str, Tensor]]) -> None:
    for results in found:
        assert results["sum"].tolist() == [3.0, 3.0]
        assert results["largest"].tolist() == [0.0, 2.0]
        assert results["temperature"].item() == 2.0
        assert results["buffer"].tolist() == [1.0, 1.0]


def test_a_gradient_that_some_lack_is_averaged_as_zeros(found: list[dict[str, Tensor]]) -> None:
    """Its neighbours stay what they are, and what nobody has stays without one."""
    for results in found:
        assert results["elsewhere"].tolist() == [2.0, 2.0]
        assert results["everywhere"].tolist() == [[2.0, 4.0], [6.0, 8.0]]
        assert results["nowhere"]


def test_buffers_of_any_type_and_layout_are_shared(found: list[dict[str, Tensor]]) -> None:
    assert all(results["like the first's"] for results in found)


def test_one_worker_needs_no_process_group() -> None:
    workers = Workers.of_process_group()
    rows = torch.ones(2, 3, requires_grad=True)
    assert workers == Workers(0, 1)
    assert workers.gather(rows, [2]) is rows
    assert workers.sum(rows).tolist() == rows.tolist()
    assert not workers.largest(rows).requires_grad


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be bound to processors here")
def test_processors_that_an_affinity_takes_away_are_not_counted() -> None:
    bound = (
        "import os; from bcls_core.workers import usable_processors; before = usable_processors(); "
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(before, usable_processors())"
    )
    found = subprocess.run([sys.executable, "-c", bound], capture_output=True, text=True, check=True)
    assert found.stdout.split() == [str(len(os.sched_getaffinity(0))), "1"]


@pytest.mark.parametrize(("rank", "expected"), [(0, slice(0, 3)), (1, slice(3, 4)), (2, slice(4, 6))])
def test_a_worker_knows_where_its_rows_are(rank: int, expected: slice) -> None:
    assert Workers(rank, 3).rows(SIZES) == expected


@pytest.mark.parametrize("rows", [1, 3])
def test_other_rows_than_said_are_refused_before_anything_is_exchanged(rows: int) -> None:
    with pytest.raises(ShapeError, match=rf"rows: {rows} on worker 0, but sizes says \(2, 2\)"):
        Workers(rank=0, size=2).gather(torch.zeros(rows, 4), (2, 2))
