"""Training: it learns, it continues exactly, and several workers train what one would."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from bcls_core.config import AugmentSettings, ClipStudent, CustomStudent, GruTextTower
from bcls_core.data.rows import CorpusRows
from bcls_core.errors import BclsError, CorpusError, StoppedError
from bcls_core.store import Artifact
from bcls_core.students import load_student
from bcls_core.training import loop
from bcls_core.training.checkpoint import finished_epochs
from bcls_core.training.history import read_history
from bcls_core.training.loop import Engine, Trainer, TrainingJob, train
from bcls_core.training.validate import validate
from bcls_core.workers import Workers
from tests.bcls_core.training.conftest import cusa

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
CLIP = ClipStudent(
    kind="clip",
    config={
        "model_type": "clip",
        "text_config": SMALL,
        "vision_config": SMALL | {"patch_size": 8},
        "projection_dim": 8,
    },
    size=32,
    max_tokens=24,
)


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


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"average": 0.9, "mini_batch_size": 9},
        {"student": "dropout"},
        {"objective": cusa(), "mini_batch_size": 9, "average": 0.8},
        {"objective": cusa(), "student": CLIP},
        {"student": "gru", "mini_batch_size": 9},
    ],
    ids=["plain", "average of the weights, gradient cache", "dropout", "heads of soft labels", "dual encoder", "gru"],
)
def test_a_training_stopped_at_any_step_continues_exactly(ground: Any, changes: dict[str, Any]) -> None:
    """Stopped over and over: after some steps of each attempt, in the middle of epochs and at their ends."""
    changes = {"epochs": 2, **changes}
    if changes.get("student") == "dropout":
        student = ground.recipe.train.student
        changes["student"] = student.model_copy(update={"dropout": 0.3})
    if changes.get("student") == "gru":
        student = ground.recipe.train.student
        changes["student"] = student.model_copy(update={"text": GruTextTower(gru=16, words=12)})
    whole = ground.begin(f"whole-{len(str(changes))}", **changes)
    train(whole, Workers(), ignore)
    job = ground.begin(f"pieces-{len(str(changes))}", **changes)
    attempts, taken = 0, 0
    while True:
        steps = iter([False] * attempts + [True] * 99)
        attempts += 1

        def stop(steps: Any = steps) -> bool:
            nonlocal taken
            taken += 1
            return next(steps)

        with contextlib.suppress(StoppedError):
            train(job, Workers(), ignore, stop)
            break
    undisturbed, resumed = finish(whole), finish(job)
    assert attempts > 3
    per_epoch = Trainer(ground.begin("steps"), Workers())._steps_per_epoch
    assert taken == 2 * per_epoch, "no step is taken twice"
    assert read_history(resumed) == read_history(undisturbed)
    model = "model/model.safetensors"
    assert resumed.local(model).read_bytes() == undisturbed.local(model).read_bytes()


def test_a_stop_at_the_end_of_an_epoch_changes_nothing(ground: Any, undisturbed: Artifact) -> None:
    job = ground.begin("stopped-at-the-end")
    per_epoch = Trainer(job, Workers())._steps_per_epoch
    steps = iter([False] * (per_epoch - 1) + [True])
    with pytest.raises(StoppedError, match=f"after {per_epoch} of {per_epoch} steps"):
        train(job, Workers(), ignore, lambda: next(steps))
    train(job, Workers(), ignore)
    assert read_history(finish(job)) == read_history(undisturbed)


def test_a_killed_training_repeats_less_than_a_checkpoint_interval(ground: Any, undisturbed: Artifact) -> None:
    job = replace(ground.begin("killed"), engine=Engine(checkpoint_steps=2))
    per_epoch = Trainer(job, Workers())._steps_per_epoch
    killed_after = per_epoch + per_epoch // 2 + 1
    taken = 0

    def die() -> bool:
        nonlocal taken
        taken += 1
        if taken == killed_after:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        train(job, Workers(), ignore, die)
    assert finished_epochs(job.draft) == 2
    train(job, Workers(), ignore, die)
    assert 0 < taken - 3 * per_epoch <= 2, "steps that were taken twice"
    model = "model/model.safetensors"
    assert finish(job).local(model).read_bytes() == undisturbed.local(model).read_bytes()


def test_the_average_of_the_weights_is_what_is_validated_and_published(ground: Any, undisturbed: Artifact) -> None:
    job = ground.begin("averaged", average=0.98)
    train(job, Workers(), ignore)
    averaged = finish(job)
    histories = [read_history(artifact).epochs for artifact in (undisturbed, averaged)]
    names = [name for name in histories[0][1] if name.startswith("train/")]
    for epoch in range(1, 4):
        assert all(histories[0][epoch][name] == histories[1][epoch][name] for name in names), "trained alike"
    assert histories[0][3]["val/rsum"] != histories[1][3]["val/rsum"]
    model = "model/model.safetensors"
    assert averaged.local(model).read_bytes() != undisturbed.local(model).read_bytes()
    val = Trainer(ground.begin("averaged-again"), Workers())._val_source
    found = validate(load_student(averaged.local("model")), val, Workers(), torch.device("cpu"))
    assert found["rsum"] == read_history(averaged).best["val/rsum"]


def test_pictures_are_varied_alike_after_a_stop(ground: Any, undisturbed: Artifact) -> None:
    augment = AugmentSettings(crop=0.5, flip=True)
    whole, job = (ground.begin(f"augmented-{name}", epochs=2, augment=augment) for name in ("whole", "stopped"))
    train(whole, Workers(), ignore)
    steps = iter([False] * 4 + [True])
    with pytest.raises(StoppedError):
        train(job, Workers(), ignore, lambda: next(steps))
    train(job, Workers(), ignore)
    history = read_history(finish(whole))
    assert history == read_history(finish(job))
    assert history.epochs[0] == read_history(undisturbed).epochs[0], "validation shows pictures as they are"
    assert history.epochs[1]["train/loss"] != read_history(undisturbed).epochs[1]["train/loss"]


@pytest.mark.parametrize("augment", [AugmentSettings(), AugmentSettings(flip=True)], ids=["as it is", "varied"])
def test_a_picture_that_can_no_longer_be_read_is_named(
    ground: Any, monkeypatch: pytest.MonkeyPatch, augment: AugmentSettings
) -> None:
    job = ground.begin("unreadable", epochs=1, augment=augment)
    trainer, read = Trainer(job, Workers()), CorpusRows.images
    damaged = 17

    def cut_off(rows: CorpusRows, numbers: Any) -> list[bytes]:
        found = read(rows, numbers)
        train_split = rows.split == "train"
        return [x[: len(x) // 2] if train_split and n == damaged else x for n, x in zip(numbers, found, strict=True)]

    monkeypatch.setattr(CorpusRows, "images", cut_off)
    name = CorpusRows(ground.corpus, "train").image_ids[damaged]
    with pytest.raises(CorpusError, match=rf"image '{name}' of split train cannot be decoded.*\n.*artifacts verify"):
        trainer.run(ignore)


def test_it_ends_when_epochs_bring_nothing_more(ground: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rsums = iter([10.0, 40.0, 30.0, 20.0, 50.0])
    monkeypatch.setattr("bcls_core.training.loop.validate", lambda *_: {"rsum": next(rsums)})
    job = ground.begin("patient", epochs=9, patience=2)
    seen: list[int] = []

    def stop_once(epoch: int, _: dict[str, float]) -> None:
        seen.append(epoch)
        if seen == [0, 1, 2]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(job, Workers(), stop_once)
    train(job, Workers(), stop_once)
    assert seen == [0, 1, 2, 0, 1, 2, 3], "two epochs after the best"
    history = read_history(finish(job))
    assert (history.best_epoch, len(history.epochs)) == (1, 4)


def test_negatives_that_were_used_are_counted(undisturbed: Artifact) -> None:
    epoch = read_history(undisturbed).epochs[1]
    assert 26 <= epoch["train/negatives"] <= 27, "all others of batches of 28"


def test_a_loss_that_is_not_finite_names_epoch_and_step(ground: Any) -> None:
    job = ground.begin("diverges", learning_rate=1e30, clip_norm=1e30, warmup=0.0)
    with pytest.raises(BclsError, match=r"epoch 1, step \d+.*learning_rate|row|NaN|finite"):
        train(job, Workers(), ignore)


def worker(rank: int, size: int, folder: str, job: TrainingJob, stops: dict[int, int]) -> None:
    """One of several; `stops` says after how many steps a rank asks to stop."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    epochs: list[dict[str, float]] = []
    left = iter([False] * (stops.get(rank, 10_000) - 1) + [True])
    if "SEEN_OTHERWISE" in os.environ:
        loop.validate = lambda *given: (found := validate(*given)) | {"rsum": found["rsum"] * (1 - 2 * rank)}
    try:
        train(job, Workers.of_process_group(), lambda _, metrics: epochs.append(metrics), lambda: next(left))
    except StoppedError as error:
        (Path(folder) / f"{rank}.stopped").write_text(str(error))
    (Path(folder) / f"{rank}.json").write_text(json.dumps(epochs))
    dist.destroy_process_group()


def trained_together(job: TrainingJob, folder: Path, size: int, stops: dict[int, int] | None = None) -> None:
    folder.mkdir()
    mp.spawn(worker, args=(size, str(folder), job, stops or {}), nprocs=size)


@pytest.mark.slow
def test_workers_that_see_another_validation_decide_as_the_first(
    ground: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is better to one is worse to the other; each alone would stop at another epoch."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("SEEN_OTHERWISE", "1")
    job = ground.begin("otherwise", patience=1)
    trained_together(job, tmp_path / "run", 2)
    logs = [json.loads((tmp_path / "run" / f"{rank}.json").read_text()) for rank in range(2)]
    assert [epoch["val/rsum"] for epoch in logs[0]] == [epoch["val/rsum"] for epoch in logs[1]]
    assert len(read_history(finish(job)).epochs) == len(logs[0])


@pytest.mark.slow
@pytest.mark.parametrize("pieces", [None, 4], ids=["at once", "gradient cache"])
def test_three_workers_train_what_one_does(
    ground: Any, undisturbed: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: int | None
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    job = ground.begin(f"three-{pieces}", mini_batch_size=pieces)
    trained_together(job, tmp_path / "run", 3)
    logs = [json.loads((tmp_path / "run" / f"{rank}.json").read_text()) for rank in range(3)]
    together = read_history(finish(job))
    alone = read_history(undisturbed)
    for epoch, (one, joint) in enumerate(zip(alone.epochs, together.epochs, strict=True)):
        assert one.keys() == joint.keys()
        for name in one:
            if name.startswith("train/"):
                assert joint[name] == pytest.approx(one[name], rel=2e-4, abs=1e-6), f"epoch {epoch}: {name}"
        for log in logs:
            assert {name: log[epoch][name] for name in joint} == pytest.approx(joint), "all workers see one validation"


@pytest.mark.slow
@pytest.mark.parametrize("pieces", [None, 4], ids=["at once", "gradient cache"])
def test_a_score_may_have_parameters_of_its_own(
    ground: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: int | None
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    student = CustomStudent(kind="custom", target="tests.bcls_core.training.scaled_student:ScaledStudent")
    found = []
    for name, workers, size in (("alone", 1, None), ("together", 2, pieces)):
        job = ground.begin(f"scaled-{name}-{pieces}", student=student, epochs=1, mini_batch_size=size)
        if workers == 1:
            train(job, Workers(), ignore)
        else:
            trained_together(job, tmp_path / "run", workers)
        found.append(finish(job))
    alone, together = (read_history(artifact).epochs[1] for artifact in found)
    for name in alone:
        if name.startswith("train/"):
            assert together[name] == pytest.approx(alone[name], rel=2e-4, abs=1e-6), name


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "pieces"), [("two-tower", None), ("partly-used", 4)])
def test_where_one_worker_is_asked_to_stop_all_do_and_go_on_from_there(
    ground: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, pieces: int | None
) -> None:
    """Three workers: sums of two numbers would be the same in any order."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    if kind == "two-tower":
        student = ground.recipe.train.student.model_copy(update={"dropout": 0.2})
    else:
        target = "tests.bcls_core.training.partly_used_student:PartlyUsedStudent"
        student = CustomStudent(kind="custom", target=target)
    settings = {"student": student, "epochs": 2, "mini_batch_size": pieces}
    whole, job = (ground.begin(f"{kind}-{pieces}-{name}", **settings) for name in ("whole", "stopped"))
    trained_together(whole, tmp_path / "whole", 3)
    trained_together(job, tmp_path / "stopped", 3, {1: 5})
    for rank in range(3):
        assert "after 5 of" in (tmp_path / "stopped" / f"{rank}.stopped").read_text()
    trained_together(job, tmp_path / "resumed", 3)
    resumed, undisturbed = finish(job), finish(whole)
    assert read_history(resumed) == read_history(undisturbed)
    model = "model/model.safetensors"
    assert resumed.local(model).read_bytes() == undisturbed.local(model).read_bytes()


def test_patience_begins_when_towers_do(ground: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rsums = iter([50.0, 40.0, 30.0, 20.0, 10.0])
    monkeypatch.setattr("bcls_core.training.loop.validate", lambda *_: {"rsum": next(rsums)})
    student = CustomStudent(kind="custom", target="tests.bcls_core.training.layered_student:LayeredStudent")
    job = ground.begin("patient-after-frozen", student=student, epochs=4, patience=1, frozen_epochs=2)
    train(job, Workers(), ignore)
    assert len(read_history(finish(job)).epochs) == 1 + 3


def test_a_model_that_never_was_trained_well_is_warned_of(
    ground: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("bcls_core.training.loop.validate", lambda *_: {"rsum": 600.0})
    train(ground.begin("never-better", epochs=1), Workers(), ignore)
    assert "no epoch had a better val rsum than the untrained student's" in caplog.text


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


def test_heads_are_clipped_with_the_student(ground: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so their gradients are in the norm that must be finite."""
    trainer = Trainer(ground.begin("clipped", objective=cusa(), epochs=1), Workers())
    clip, clipped = torch.nn.utils.clip_grad_norm_, set()

    def noted(parameters: Any, most: float) -> Any:
        given = list(parameters)
        clipped.update(map(id, given))
        return clip(given, most)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", noted)
    trainer.run(ignore)
    heads = {id(parameter) for parameter in trainer._objective.heads.parameters()}
    assert len(heads) == 8
    assert heads <= clipped
