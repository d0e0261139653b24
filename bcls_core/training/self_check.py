"""Whether two processes here compute what one does: the same gradients of a joint batch, on CPUs or on GPUs.

Each of two processes encodes half of a batch and takes its share of a contrastive loss with the negatives of both, as
training does; the gradients must be those that one process has of the whole batch.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn import functional

from bcls_core.losses import InfoNCELoss
from bcls_core.workers import Workers

_ROWS, _WIDTH = 8, 16
_SIZES = (_ROWS // 2, _ROWS // 2)


class _Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(_WIDTH, 32), nn.GELU(), nn.Linear(32, _WIDTH))

    def forward(self, rows: Tensor) -> Tensor:
        return functional.normalize(self.layers(rows).float(), dim=-1)


def two_processes(backend: str, way: str = "ddp") -> float:
    """The largest difference of a gradient from one process's, as a share of the largest gradient.

    Args:
        backend: `gloo` (CPU) or `nccl` (two GPUs).
        way: `ddp`; `amp`, with towers in bfloat16; `fsdp`, with parameters sharded over the two.
    Raises:
        RuntimeError: a process failed; says why.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_process, args=(backend, way, folder), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
        return float(json.loads(Path(folder, "result.json").read_text()))


def _process(rank: int, backend: str, way: str, folder: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        workers = Workers(rank, 2)
        expected = _gradients(Workers(), device, "amp" if way == "amp" else "ddp")
        found = _gradients(workers, device, way)
        if rank == 0:
            largest = max(float(gradient.abs().max()) for gradient in expected)
            apart = max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))
            Path(folder, "result.json").write_text(json.dumps(apart / largest))
    finally:
        dist.destroy_process_group()


def _gradients(workers: Workers, device: torch.device, way: str) -> list[Tensor]:
    """Of a joint batch, in this process: its tower's, exchanged as training exchanges them."""
    torch.manual_seed(0)
    tower: nn.Module = _Tower().to(device)
    rows = torch.randn(2, _ROWS, _WIDTH, device=device)
    mine = workers.rows(_SIZES) if workers.size > 1 else slice(None)
    sizes = _SIZES if workers.size > 1 else (_ROWS,)
    model = _shared(tower, way) if workers.size > 1 else tower
    with torch.autocast(device.type, torch.bfloat16, enabled=way == "amp"):
        both: Tensor = model(rows[:, mine].reshape(-1, _WIDTH))
    images, captions = both.reshape(2, -1, _WIDTH)
    loss = _share(images, captions, sizes, workers)
    (loss * workers.size).backward()  # type: ignore[no-untyped-call]
    return [_whole(parameter.grad) for parameter in tower.parameters()]


def _share(images: Tensor, captions: Tensor, sizes: tuple[int, ...], workers: Workers) -> Tensor:
    loss = InfoNCELoss().to(images.device)
    if workers.size == 1:
        terms = loss(images @ captions.T)
    else:
        every_image, every_caption = workers.gather(images, sizes), workers.gather(captions, sizes)
        positives = torch.zeros(len(images), len(every_caption), dtype=torch.bool, device=images.device)
        positives[:, workers.rows(sizes)].fill_diagonal_(True)
        terms = loss(
            images @ every_caption.T,
            positives=positives,
            t2i_scores=captions @ every_image.T,
            t2i_positives=positives,
            workers=workers,
        )
    return torch.stack(list(terms.values())).sum()


def _shared(tower: nn.Module, way: str) -> nn.Module:
    if way != "fsdp":
        return nn.parallel.DistributedDataParallel(tower)
    from torch.distributed.fsdp import fully_shard

    fully_shard(tower)  # in place
    return tower


def _whole(gradient: Any) -> Tensor:
    full = getattr(gradient, "full_tensor", None)  # of a sharded parameter
    return gradient if full is None else full()  # type: ignore[no-any-return]
