"""The training loop: one process, or one of several that act as one."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from bcls_core.config import RelatedBatches, TrainSettings
from bcls_core.errors import BclsError, ConfigError, StoppedError, StoreError
from bcls_core.store import Artifact, Draft
from bcls_core.students import Student, save_student
from bcls_core.training.averaging import MovingAverage
from bcls_core.training.batches import Batch
from bcls_core.training.checkpoint import Checkpoints, TrainingState
from bcls_core.training.encoder import StepEncoder, keep_few_activations
from bcls_core.training.feed import MakePrepare, batches_of, prepare_here
from bcls_core.training.history import MODEL, History, write_history
from bcls_core.training.initial import load_initial
from bcls_core.training.objective import ScoredPairs
from bcls_core.training.plan import BatchPlan
from bcls_core.training.related import planner
from bcls_core.training.schedule import (
    FirstFrozen,
    build_optimiser,
    check_first_epochs,
    learning_rate,
    set_learning_rate,
)
from bcls_core.training.sharding import clip_gradients, gathered, is_sharded, load_optimiser, reshard, shard, spread
from bcls_core.training.sources import open_sources
from bcls_core.training.validate import validate
from bcls_core.workers import Workers

log = logging.getLogger(__name__)

OnEpoch = Callable[[int, dict[str, float]], None]
Stop = Callable[[], bool]

_BATCHES_AHEAD = 2
"""Beside an accelerator. A step on CPUs has all of them at work; whoever took one away would have the others wait."""


class Notice(Protocol):
    """Of nodes under the training that will be taken away."""

    def due(self) -> bool:
        """Whether to look for one; asked on every worker in each step."""

    def given(self) -> bool:
        """Looks. Called on all workers at once, after a step in which it was due on one; the same on all."""


def never() -> bool:
    """Nobody asks the training to stop."""
    return False


@dataclass(frozen=True)
class Engine:
    """How the work is done, which changes no result but by rounding.

    Attributes:
        checkpoint_steps: steps after which a checkpoint is written, beside the one after each epoch.
        compiled: whether `torch.compile` makes code for the student.
        activation_checkpointing: whether activations are computed again instead of kept.
        sharded: whether the workers share out parameters and optimiser between them.
    """

    checkpoint_steps: int = 500
    compiled: bool = False
    activation_checkpointing: bool = False
    sharded: bool = False


@dataclass(frozen=True)
class TrainingJob:
    """All that a worker needs to know; small and picklable.

    Attributes:
        corpus, labels: what is read.
        draft: the training being made; checkpoints and the finished model go there.
    """

    corpus: Artifact
    labels: Artifact
    draft: Draft
    settings: TrainSettings
    device: str = "cpu"
    engine: Engine = Engine()


def train(
    job: TrainingJob,
    workers: Workers,
    on_epoch: OnEpoch,
    stop: Stop = never,
    make_prepare: MakePrepare = prepare_here,
    notice: Notice | None = None,
) -> None:
    """Trains to the end from the last checkpoint, and leaves the best epoch's model in the draft.

    Args:
        on_epoch: called after each epoch on every worker with the epoch (0 is the untrained student) and its metrics.
        stop: asked on every worker in each step; where one says True, all finish it, write a checkpoint and stop.
        make_prepare: who decodes and tokenises.
        notice: of nodes that will be taken away; where it is given, a checkpoint is written and training goes on.
    Raises:
        BclsError: the loss is not finite; names epoch and step.
        StoppedError: `stop` said so; the same training goes on from there.
    """
    Trainer(job, workers, make_prepare, notice).run(on_epoch, stop)


class Trainer:
    """The state of one worker's training."""

    def __init__(
        self,
        job: TrainingJob,
        workers: Workers,
        make_prepare: MakePrepare = prepare_here,
        notice: Notice | None = None,
    ) -> None:
        self._notice = notice
        self._settings, self._engine, self._workers, self._draft = job.settings, job.engine, workers, job.draft
        self._device = torch.device(job.device)
        self._student = load_initial(job.draft).to(self._device)
        if job.engine.activation_checkpointing:
            keep_few_activations(self._student)
        opened = open_sources(job, self._student, self._device)
        self._objective, self._train_source, self._val_source = opened.objective, opened.train, opened.val
        if job.engine.sharded:
            shard(self._student, workers, self._device)
        self._never_trained = {name for name, p in self._student.named_parameters() if not p.requires_grad}
        self._optimiser = build_optimiser(self._student, self._objective, job.settings)
        average = job.settings.average
        self._average = None if average is None else MovingAverage(self._student, average)
        self._first_frozen = FirstFrozen(self._student, job.settings.frozen_epochs)
        check_first_epochs(self._student, self._objective, job.settings.frozen_epochs)
        self._encoder: StepEncoder | None = None
        self._checkpoints = Checkpoints(job.draft, workers, self._device)
        self._prepare = make_prepare(self._train_source.inputs)
        self._plan = planner(job.settings, self._train_source.rows, job.labels)
        # Deterministic from seed and epoch, so it costs nothing to know the number of steps ahead.
        first = self._plan(1)
        self._steps_per_epoch = first.steps
        _check_plan(first, workers.size, job.settings.batch_size)

    def run(self, on_epoch: OnEpoch, stop: Stop = never) -> None:
        state = self._resume()
        if state is None:
            state = self._after_epoch(0, self._validate(), None)
        for epoch, metrics in enumerate(state.history):
            on_epoch(epoch, metrics)
        while not self._is_over(state):
            metrics, speed = self._train_epoch(state, stop)
            metrics |= self._validate()
            state = self._after_epoch(state.epoch + 1, metrics, state)
            on_epoch(state.epoch, metrics | speed)
        if self._workers.is_first:
            self._finish(state)

    def _is_over(self, state: TrainingState) -> bool:
        patience = self._settings.patience
        since = max(state.best_epoch, self._settings.frozen_epochs)
        tired = patience is not None and state.epoch - since >= patience
        return tired or state.epoch >= self._settings.epochs

    def _train_epoch(self, state: TrainingState, stop: Stop) -> tuple[dict[str, float], dict[str, float]]:
        """The epoch's means, and apart from them how fast it went: timings never enter an artefact."""
        epoch, begin = state.epoch + 1, state.step
        self._student.train()
        if self._first_frozen.begin(epoch) or self._encoder is None:
            self._encoder = self._make_encoder()
        plan = self._plan(epoch)
        ahead = 0 if self._device.type == "cpu" else _BATCHES_AHEAD
        batches = batches_of(self._train_source, self._prepare, plan, begin, self._workers, ahead)
        sums = {name: value.to(self._device) for name, value in state.sums.items()}
        started = time.perf_counter()
        for step, batch in enumerate(batches, start=begin):
            values, stopped, due = self._step(self._encoder, batch.to(self._device), (epoch, step), stop)
            for name, value in values.items():
                sums[name] = sums.get(name, torch.zeros((), device=self._device)) + value
            done = step + 1
            going = due and self._notice is not None and self._notice.given()
            if stopped or going or (done % self._engine.checkpoint_steps == 0 and done < plan.steps):
                self._checkpoints.save(self._state(state.epoch, state, step=done, sums=sums))
            if stopped:
                raise StoppedError(
                    f"training stopped as it was asked to, at epoch {epoch} after {done} of {plan.steps} steps, with a "
                    "checkpoint. Run the same command again to go on from there."
                )
        seconds = time.perf_counter() - started
        means = {name: float(total) / plan.steps for name, total in sums.items()}
        means |= {f"train/{name}": value for name, value in self._objective.learned().items()}
        means |= {"train/learning_rate": self._rate(epoch, plan.steps - 1), "train/left_out": float(plan.left_out)}
        if isinstance(self._settings.batches, RelatedBatches):
            means["train/grouped"] = plan.grouped / plan.used
        speed = {
            "train/pairs_per_second": plan.used * (plan.steps - begin) / plan.steps / seconds,
            "train/stall_seconds_per_step": batches.stalled_seconds / max(1, plan.steps - begin),
            "train/workers": float(self._workers.size),
        }
        return means, speed

    def _rate(self, epoch: int, step: int) -> float:
        return learning_rate((epoch - 1) * self._steps_per_epoch + step, self._total_steps, self._settings)

    def _step(
        self, encoder: StepEncoder, batch: Batch, place: tuple[int, int], stop: Stop
    ) -> tuple[dict[str, Tensor], bool, bool]:
        """What the step measured, over all workers; whether one of them wants to stop; whether one awaits notices.

        Args:
            place: epoch and step.
        """
        self._optimiser.zero_grad(set_to_none=True)
        encoded = encoder.encode(batch, (self._settings.seed, *place, self._workers.rank))
        pairs = self._pairs(encoded.images, encoded.captions, batch.sizes)
        terms = self._objective(pairs, batch.relevances, batch.teachers, self._workers)
        share = torch.stack(list(terms.values()))
        # Data parallelism averages where the joint gradient is a sum.
        encoded.backward(share.sum() * self._workers.size)
        self._workers.average_gradients(self._objective.parameters())
        due = self._notice is not None and self._notice.due()
        votes = share.new_tensor([float(stop()), float(due)])
        *joint, stops, looks = self._workers.sum(torch.cat([share, votes]))
        loss = torch.stack(joint).sum()
        norm = self._clip_gradients()
        if not (torch.isfinite(norm) and torch.isfinite(loss)):
            raise BclsError(
                f"training: loss {float(loss):g}, gradient norm {float(norm):g} at epoch {place[0]}, step {place[1]}. "
                "Lower train.learning_rate, or look for degenerate images or captions in this batch."
            )
        set_learning_rate(self._optimiser, self._rate(*place))
        self._optimiser.step()
        if self._average is not None:
            self._average.move()
        values = {f"train/{name}": term for name, term in zip(terms, joint, strict=True)}
        negatives = torch.tensor(float(pairs.scores.shape[1] - 1), device=self._device)
        values |= {"train/loss": loss, "train/gradient_norm": norm, "train/negatives": negatives}
        return values, float(stops) > 0, float(looks) > 0

    def _clip_gradients(self) -> Tensor:
        parameters, most = [*self._student.parameters(), *self._objective.heads.parameters()], self._settings.clip_norm
        if is_sharded(self._student):
            return clip_gradients(parameters, most, self._workers)
        return nn.utils.clip_grad_norm_(parameters, most)

    def _make_encoder(self) -> StepEncoder:
        settings = self._settings
        return StepEncoder(
            self._student,
            self._workers,
            piece=settings.mini_batch_size,
            bf16=settings.precision == "bf16",
            compiled=self._engine.compiled,
        )

    def _pairs(self, images: Tensor, captions: Tensor, sizes: Sequence[int]) -> ScoredPairs:
        """This worker's images against everybody's captions, and its captions against everybody's images."""
        if self._workers.size == 1:
            alone = {"image-image": (images, images), "caption-caption": (captions, captions)}
            return ScoredPairs(self._student.score(images, captions), encodings=alone)
        all_images, all_captions = (self._workers.gather(side, sizes) for side in (images, captions))
        mine = torch.zeros(len(images), len(all_captions), dtype=torch.bool, device=images.device)
        mine[:, self._workers.rows(sizes)].fill_diagonal_(True)
        scores = self._student.score(images, all_captions)
        t2i_scores = self._student.score(all_images, captions).T
        encodings = {"image-image": (images, all_images), "caption-caption": (captions, all_captions)}
        return ScoredPairs(scores, mine, t2i_scores, mine, encodings)

    def _validate(self) -> dict[str, float]:
        # Running statistics (of batch norms) are each worker's own until the next step; the model has the first one's.
        self._workers.share_buffers(self._student)
        with self._model_weights():
            metrics = validate(self._student, self._val_source, self._workers, self._device)
            reshard(self._student)
        # What is decided by it must be decided by all alike, and machines may differ in a last digit.
        rsum = torch.tensor(metrics["rsum"] if self._workers.is_first else 0.0, dtype=torch.float64)
        metrics["rsum"] = float(self._workers.sum(rsum.to(self._device)))
        return {f"val/{name}": value for name, value in metrics.items()}

    def _model_weights(self) -> contextlib.AbstractContextManager[None]:
        """The student has the weights that are validated and published."""
        return contextlib.nullcontext() if self._average is None else self._average.applied()

    def _after_epoch(self, epoch: int, metrics: dict[str, float], before: TrainingState | None) -> TrainingState:
        """The state after an epoch, with its checkpoint written."""
        state = self._state(epoch, before)
        state.history = [*state.history, metrics]
        best = None
        if before is None or metrics["val/rsum"] > state.best_rsum:
            state.best_epoch, state.best_rsum = epoch, metrics["val/rsum"]
            with self._model_weights():
                best = {name: value.clone() for name, value in self._weights().items()}
        self._checkpoints.save(state, best)
        # Whole copies of what is sharded would lie in memory until the next epoch ends.
        return replace(state, weights={}, optimiser={}, average={})

    def _state(
        self, epoch: int, before: TrainingState | None, *, step: int = 0, sums: dict[str, Tensor] | None = None
    ) -> TrainingState:
        return TrainingState(
            epoch=epoch,
            weights=self._weights(),
            objective=self._objective.state_dict(),
            optimiser=gathered(self._optimiser.state_dict(), keep=self._workers.is_first),
            history=before.history if before else [],
            best_epoch=before.best_epoch if before else 0,
            best_rsum=before.best_rsum if before else float("-inf"),
            step=step,
            average={} if self._average is None else gathered(self._average.state_dict(), keep=self._workers.is_first),
            sums=sums or {},
        )

    def _weights(self) -> dict[str, Tensor]:
        own = self._student.state_dict()
        return {
            name: gathered(value, keep=self._workers.is_first)
            for name, value in own.items()
            if name not in self._never_trained
        }

    def _resume(self) -> TrainingState | None:
        state = self._checkpoints.begin()
        if state is not None:
            log.info("continuing after epoch %d and %d steps", state.epoch, state.step)
            self._load_trained(self._student, state.weights)
            self._objective.load_state_dict(state.objective)
            load_optimiser(self._optimiser, state.optimiser)
            if self._average is not None:
                self._average.load_state_dict(state.average)
        return state

    def _load_trained(self, student: Student, weights: dict[str, Tensor]) -> None:
        """Weights of a checkpoint, which holds all but those that are never trained."""
        own = student.state_dict()
        spread_out = {name: spread(value, own.get(name)) for name, value in weights.items()}
        found = student.load_state_dict(spread_out, strict=False)
        if found.unexpected_keys or set(found.missing_keys) - self._never_trained:
            raise StoreError(
                f"{self._draft.url}: its checkpoint is of another student (missing {found.missing_keys[:3]}, "
                f"unexpected {found.unexpected_keys[:3]}). Remove the draft's folder and train again."
            )

    def _finish(self, state: TrainingState) -> None:
        if not state.best_epoch:
            log.warning("no epoch had a better val rsum than the untrained student's, which is the model therefore")
        student = load_initial(self._draft)  # this worker may have but a part of the one it trained
        self._load_trained(student, self._checkpoints.best(state))
        self._checkpoints.require_newest()
        with tempfile.TemporaryDirectory() as folder:
            save_student(student, Path(folder))
            self._draft.add_tree(MODEL, Path(folder))
        self._checkpoints.require_newest()
        write_history(self._draft, History(state.best_epoch, state.history))

    @property
    def _total_steps(self) -> int:
        return self._settings.epochs * self._steps_per_epoch


def _check_plan(plan: BatchPlan, workers: int, batch_size: int) -> None:
    smallest = min((len(plan.step(index)[0]) for index in range(plan.steps)), default=0)
    if smallest < workers:
        raise ConfigError(
            f"train.batch_size={batch_size}: a step of this corpus holds as few as {smallest} captions, which "
            f"{workers} workers cannot share. Raise train.batch_size or lower runtime.workers."
        )
