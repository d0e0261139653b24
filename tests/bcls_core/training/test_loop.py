"""Training: it learns, it continues exactly, and several workers train what one would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from bcls_core.errors import BclsError
from bcls_core.store import Artifact
from bcls_core.training.history import read_history
from bcls_core.training.loop import Trainer, TrainingJob, train
from bcls_core.workers import Workers


def ignore(epoch: int, metrics: dict[str, float]) -> None:
    """An `on_epoch` that nobody listens to."""


def finish(job: TrainingJob) -> Artifact:
    return job.draft.commit(fingerprint={"training": job.draft.version}, schema="training/1")


@pytest.fixture(scope="module")
def undisturbed(ground: Any) -> Artifact:
    job = ground.begin("undisturbed")
    train(job, Workers(), ignore)
    return finish(job)


def test_it_learns_and_keeps_the_best_epoch(undisturbed: Artifact) -> None:
    history = read_history(undisturbed)
    assert len(history.epochs) == 4, "the untrained student and three epochs"
    rsums = [epoch["val/rsum"] for epoch in history.epochs]
    assert rsums[history.best_epoch] == max(rsums)
    assert history.best_epoch > 0
    assert history.epochs[3]["train/loss"] < history.epochs[1]["train/loss"]
    assert {"val/i2t/r1", "val/t2i/r10", "val/label/cider/t2i/kendall"} <= history.epochs[0].keys()
    taus = [epoch["train/learned/info-nce/tau"] for epoch in history.epochs[1:]]
    assert len(set(taus)) == 3, "the temperature is learned"
    assert not any("second" in name for epoch in history.epochs for name in epoch), "timings are no content"


@pytest.mark.parametrize("last", [0, 1, 3])
def test_a_stopped_training_continues_exactly(ground: Any, undisturbed: Artifact, last: int) -> None:
    job = ground.begin(f"stopped-{last}")

    def stop(epoch: int, metrics: dict[str, float]) -> None:
        if epoch == last:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(job, Workers(), stop)
    seen: list[int] = []
    train(job, Workers(), lambda epoch, _: seen.append(epoch))
    assert seen == [0, 1, 2, 3], "every epoch is reported, finished ones from the checkpoint"
    resumed = finish(job)
    assert read_history(resumed) == read_history(undisturbed)
    assert (
        resumed.local("model/model.safetensors").read_bytes()
        == undisturbed.local("model/model.safetensors").read_bytes()
    )


def test_a_loss_that_is_not_finite_names_epoch_and_step(ground: Any) -> None:
    job = ground.begin("diverges", learning_rate=1e30, clip_norm=1e30, warmup=0.0)
    with pytest.raises(BclsError, match=r"epoch 1, step \d+.*learning_rate|row|NaN|finite"):
        train(job, Workers(), ignore)


def worker(rank: int, size: int, folder: str, job: TrainingJob) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    epochs: list[dict[str, float]] = []
    train(job, Workers.of_process_group(), lambda _, metrics: epochs.append(metrics))
    (Path(folder) / f"{rank}.json").write_text(json.dumps(epochs))
    dist.destroy_process_group()


@pytest.mark.slow
def test_three_workers_train_what_one_does(
    ground: Any, undisturbed: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    job = ground.begin("three")
    mp.spawn(worker, args=(3, str(tmp_path), job), nprocs=3)
    logs = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    together = read_history(finish(job))
    alone = read_history(undisturbed)
    for epoch, (one, joint) in enumerate(zip(alone.epochs, together.epochs, strict=True)):
        assert one.keys() == joint.keys()
        for name in one:
            if name.startswith("train/"):
                assert joint[name] == pytest.approx(one[name], rel=2e-4, abs=1e-6), f"epoch {epoch}: {name}"
        for log in logs:
            assert {name: log[epoch][name] for name in joint} == pytest.approx(joint), "all workers see one validation"


def test_the_model_is_that_of_the_best_epoch(ground: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rsums = iter([10.0, 40.0, 30.0, 20.0])
    monkeypatch.setattr("bcls_core.training.loop.validate", lambda *_: {"rsum": next(rsums)})
    job = ground.begin("best-is-early")
    trainer = Trainer(job, Workers())
    weights: dict[int, dict[str, torch.Tensor]] = {}

    def keep(epoch: int, metrics: dict[str, float]) -> None:
        weights[epoch] = {name: value.clone() for name, value in trainer._student.state_dict().items()}

    trainer.run(keep)
    published = finish(job)
    assert read_history(published).best_epoch == 1
    model = load_file(published.local("model/model.safetensors"))
    assert all(torch.equal(value, weights[1][name]) for name, value in model.items())
    assert not all(torch.equal(value, weights[3][name]) for name, value in model.items())
