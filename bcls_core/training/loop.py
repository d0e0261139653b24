"""The training loop: one process, or one of several that act as one."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bcls_core.config import RelatedBatches, Split, TrainSettings
from bcls_core.data.rows import CorpusRows
from bcls_core.errors import BclsError, ConfigError, StoreError
from bcls_core.similarity import LabelSetRelevance, load_gaps, measures_of
from bcls_core.store import Artifact, Draft
from bcls_core.students import Student, save_student
from bcls_core.training.batches import Batch, BatchSource
from bcls_core.training.checkpoint import TrainingState, load_best, load_state, save_state
from bcls_core.training.frozen import load_frozen
from bcls_core.training.history import MODEL, History, write_history
from bcls_core.training.initial import load_initial
from bcls_core.training.objective import Objective, ScoredPairs
from bcls_core.training.plan import BatchPlan
from bcls_core.training.prefetch import Prefetcher
from bcls_core.training.related import planner
from bcls_core.training.schedule import build_optimiser, learning_rate
from bcls_core.training.validate import validate
from bcls_core.workers import Workers

log = logging.getLogger(__name__)

OnEpoch = Callable[[int, dict[str, float]], None]


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


def train(job: TrainingJob, workers: Workers, on_epoch: OnEpoch) -> None:
    """Trains to the end from the last checkpoint, and leaves the best epoch's model in the draft.

    Args:
        on_epoch: called after each epoch on every worker with the epoch (0 is the untrained student) and its metrics.
    Raises:
        BclsError: the loss is not finite; names epoch and step.
    """
    Trainer(job, workers).run(on_epoch)


class Trainer:
    """The state of one worker's training."""

    def __init__(self, job: TrainingJob, workers: Workers) -> None:
        self._settings, self._workers, self._draft = job.settings, workers, job.draft
        self._device = torch.device(job.device)
        self._student = load_initial(job.draft).to(self._device)
        self._objective = Objective(job.settings.objective, load_gaps(job.labels)).to(self._device)
        self._train_source = self._source(job, "train", self._objective.measures)
        self._val_source = self._source(job, "val", frozenset(measures_of(job.labels)))
        self._optimiser = build_optimiser(self._student, self._objective, job.settings)
        self._plan = planner(job.settings, self._train_source.rows, job.labels)
        # Deterministic from seed and epoch, so it costs nothing to know the number of steps ahead.
        first = self._plan(1)
        self._steps_per_epoch = first.steps
        _check_plan(first, workers.size, job.settings.batch_size)
        model = _BothTowers(self._student)
        self._model = DistributedDataParallel(model) if workers.size > 1 else model

    def run(self, on_epoch: OnEpoch) -> None:
        state = self._resume()
        if state is None:
            metrics = self._validate()
            state = self._state_after(0, metrics, None)
            self._save(state)
        for epoch, metrics in enumerate(state.history):
            on_epoch(epoch, metrics)
        for epoch in range(state.epoch + 1, self._settings.epochs + 1):
            metrics, speed = self._train_epoch(epoch)
            metrics |= self._validate()
            state = self._state_after(epoch, metrics, state)
            self._save(state)
            on_epoch(epoch, metrics | speed)
        if self._workers.is_first:
            self._finish(state)

    def _train_epoch(self, epoch: int) -> tuple[dict[str, float], dict[str, float]]:
        """The epoch's means, and apart from them how fast it went: timings never enter an artefact."""
        rank, size = self._workers.rank, self._workers.size
        torch.manual_seed(self._settings.seed * 1_000_003 + epoch * 1_009 + rank)
        self._student.train()
        plan = self._plan(epoch)
        batches = Prefetcher(lambda step: self._train_source.batch(plan, step, rank, size), plan.steps)
        sums: dict[str, Tensor] = {}
        started = time.perf_counter()
        rate = 0.0
        for step, batch in enumerate(batches):
            rate = learning_rate((epoch - 1) * plan.steps + step, self._total_steps, self._settings)
            for name, value in self._step(batch.to(self._device), rate, epoch, step).items():
                sums[name] = sums.get(name, torch.zeros((), device=self._device)) + value
        seconds = time.perf_counter() - started
        means = {name: float(total) / plan.steps for name, total in sums.items()}
        means |= {f"train/{name}": value for name, value in self._objective.learned().items()}
        means |= {"train/learning_rate": rate, "train/left_out": float(plan.left_out)}
        if isinstance(self._settings.batches, RelatedBatches):
            means["train/grouped"] = plan.grouped / plan.used
        speed = {
            "train/pairs_per_second": plan.used / seconds,
            "train/stall_seconds": batches.stalled_seconds,
            "train/workers": float(size),
        }
        return means, speed

    def _step(self, batch: Batch, rate: float, epoch: int, step: int) -> dict[str, Tensor]:
        images, captions = self._model(batch.images, batch.captions)
        terms = self._objective(self._pairs(images, captions, batch.sizes), batch.relevances, self._workers)
        share = torch.stack(list(terms.values()))
        self._optimiser.zero_grad(set_to_none=True)
        # Data parallelism averages where the joint gradient is a sum.
        (share.sum() * self._workers.size).backward()  # type: ignore[no-untyped-call]
        self._workers.average_gradients(self._objective.parameters())
        joint = self._workers.sum(share)
        norm = nn.utils.clip_grad_norm_(self._student.parameters(), self._settings.clip_norm)
        if not torch.isfinite(norm):
            raise BclsError(
                f"training: loss {float(joint.sum()):g}, gradient norm {float(norm):g} at epoch {epoch}, step {step}. "
                "Lower train.learning_rate, or look for degenerate images or captions in this batch."
            )
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        values = {f"train/{name}": term for name, term in zip(terms, joint, strict=True)}
        return values | {"train/loss": joint.sum(), "train/gradient_norm": norm}

    def _pairs(self, images: Tensor, captions: Tensor, sizes: Sequence[int]) -> ScoredPairs:
        """This worker's images against everybody's captions, and its captions against everybody's images."""
        if self._workers.size == 1:
            return ScoredPairs(self._student.score(images, captions))
        all_images, all_captions = (self._workers.gather(side, sizes) for side in (images, captions))
        mine = torch.zeros(len(images), len(all_captions), dtype=torch.bool, device=images.device)
        mine[:, self._workers.rows(sizes)].fill_diagonal_(True)
        scores = self._student.score(images, all_captions)
        return ScoredPairs(scores, mine, self._student.score(all_images, captions).T, mine)

    def _validate(self) -> dict[str, float]:
        # Running statistics (of batch norms) are each worker's own until the next step; the model has the first one's.
        self._workers.share_buffers(self._student)
        metrics = validate(self._student, self._val_source, self._workers, self._device)
        return {f"val/{name}": value for name, value in metrics.items()}

    def _state_after(self, epoch: int, metrics: dict[str, float], before: TrainingState | None) -> TrainingState:
        frozen = {name for name, parameter in self._student.named_parameters() if not parameter.requires_grad}
        state = TrainingState(
            epoch=epoch,
            weights={name: tensor for name, tensor in self._student.state_dict().items() if name not in frozen},
            objective=self._objective.state_dict(),
            optimiser=self._optimiser.state_dict(),
            history=[*(before.history if before else []), metrics],
            best_epoch=before.best_epoch if before else 0,
            best_rsum=before.best_rsum if before else float("-inf"),
        )
        if metrics["val/rsum"] > state.best_rsum:
            state.best_epoch, state.best_rsum = epoch, metrics["val/rsum"]
        return state

    def _resume(self) -> TrainingState | None:
        state = load_state(self._draft)
        if state is not None:
            log.info("continuing after epoch %d", state.epoch)
            self._load_trained(state.weights)
            self._objective.load_state_dict(state.objective)
            self._optimiser.load_state_dict(state.optimiser)
        return state

    def _load_trained(self, weights: dict[str, Tensor]) -> None:
        """Weights of a checkpoint, which holds all but the frozen ones."""
        found = self._student.load_state_dict(weights, strict=False)
        frozen = {name for name, parameter in self._student.named_parameters() if not parameter.requires_grad}
        if found.unexpected_keys or set(found.missing_keys) - frozen:
            raise StoreError(
                f"{self._draft.url}: its checkpoint is of another student (missing {found.missing_keys[:3]}, "
                f"unexpected {found.unexpected_keys[:3]}). Remove the draft's folder and train again."
            )

    def _save(self, state: TrainingState) -> None:
        if self._workers.is_first:
            save_state(self._draft, state)

    def _finish(self, state: TrainingState) -> None:
        self._load_trained(load_best(self._draft, state))
        with tempfile.TemporaryDirectory() as folder:
            save_student(self._student.cpu(), Path(folder))
            self._draft.add_tree(MODEL, Path(folder))
        write_history(self._draft, History(state.best_epoch, state.history))

    def _source(self, job: TrainingJob, split: Split, measures: frozenset[str]) -> BatchSource:
        rows = CorpusRows(job.corpus, split)
        relevances = {name: LabelSetRelevance(job.labels, name, split) for name in sorted(measures)}
        return BatchSource(rows, self._student.preprocessor, relevances, load_frozen(self._draft, self._student, rows))

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


class _BothTowers(nn.Module):
    """One forward for both sides, as data parallelism wants it."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: dict[str, Tensor], captions: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self.student.encode_images(images), self.student.encode_captions(captions)
