"""Several workers act as one: the same loss, the same gradients as one process with the joint batch."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bcls_core.losses import kendall_loss, triplet_loss
from bcls_core.training.parallel import Workers

SIZES = {2: (4, 3), 3: (3, 2, 2)}
ROWS, FEATURES, DIM = 7, 5, 4


def towers() -> nn.ModuleList:
    torch.manual_seed(3)
    return nn.ModuleList([nn.Linear(FEATURES, DIM), nn.Linear(FEATURES, DIM)]).double()


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.towers = towers()

    def forward(self, images: Tensor, captions: Tensor) -> tuple[Tensor, Tensor]:
        unit = nn.functional.normalize
        return unit(self.towers[0](images), dim=-1), unit(self.towers[1](captions), dim=-1)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    images, captions = (torch.randn(ROWS, FEATURES, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.rand(ROWS, ROWS, generator=generator, dtype=torch.float64)
    return images, captions, labels.fill_diagonal_(1.0)


def step(model: nn.Module, workers: Workers, sizes: tuple[int, ...], temperature: Tensor) -> Tensor:
    images, captions, labels = batch()
    start = sum(sizes[: workers.rank])
    mine = slice(start, start + sizes[workers.rank])
    encoded = model(images[mine], captions[mine])
    all_images, all_captions = (workers.gather(part, sizes) for part in encoded)
    scores = all_images @ all_captions.T * temperature
    loss = triplet_loss(scores, mining="soft") + kendall_loss(scores, labels, gap=0.1)
    loss.backward()
    return loss.detach()


def worker(rank: int, size: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    model = DistributedDataParallel(Both())
    temperature = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    loss = step(model, Workers.of_process_group(), SIZES[size], temperature)
    dist.all_reduce(temperature.grad, op=dist.ReduceOp.SUM)
    gradients = {name: p.grad for name, p in model.module.named_parameters()}
    torch.save({"loss": loss, "temperature": temperature.grad / size} | gradients, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("size", [2, 3])
def test_workers_give_the_gradients_of_the_joint_batch(size: int) -> None:
    model = Both()
    temperature = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    loss = step(model, Workers(), (ROWS,), temperature)
    expected = {"loss": loss, "temperature": temperature.grad}
    expected |= {name: parameter.grad for name, parameter in model.named_parameters()}
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        mp.spawn(worker, args=(size, folder), nprocs=size)
        for rank in range(size):
            found = torch.load(Path(folder) / f"{rank}.pt", weights_only=True)
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-14, msg=f"rank {rank}: {name}")
