"""Inputs prepared in processes of their own on Ray are those prepared here, in the same order, whatever happens."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bcls_core.config import AugmentSettings
from bcls_core.data.rows import CorpusRows
from bcls_core.errors import CorpusError
from bcls_core.store import Artifact, Store
from bcls_core.students import Student
from bcls_core.training.augment import Augmentation
from bcls_core.training.batches import InputSource, StepInputs
from bcls_core.training.feed import prepare_here
from bcls_core.training.frozen import FeatureTable, FrozenFeatures
from bcls_core.training.plan import BatchPlan, batch_plan
from flows.feed import PrepareOnRay, data_workers

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, make_bcls: Callable[..., Any]) -> Artifact:
    folder = tmp_path_factory.mktemp("feed")
    bcls = make_bcls(folder / "root", folder, None)
    sizes = ("ingest.train=40", "ingest.val=8", "ingest.test=8", "ingest.size=32")
    bcls.run("ingest", "-c", "demo", "--local", settings=sizes)
    return Store(bcls.root).current("corpus")


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    import ray

    sys.path.insert(0, str(REPOSITORY))
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(REPOSITORY)}},
    )
    yield
    ray.shutdown()


def source_of(corpus: Artifact) -> InputSource:
    augment = Augmentation(AugmentSettings(crop=0.5, flip=True), seed=3)
    return InputSource(
        CorpusRows(corpus, "train"), Student.make_preprocessor({"size": 24}, ["a red circle"]), augment=augment
    )


def plan_of(source: InputSource) -> BatchPlan:
    return batch_plan(source.rows.caption_image, 12, seed=0, epoch=2)


def same(found: StepInputs, expected: StepInputs) -> bool:
    return all(
        one.keys() == other.keys()
        and all(torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one)
        for one, other in zip(found, expected, strict=True)
    )


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_they_are_the_same_inputs_in_the_same_order(corpus: Artifact) -> None:
    source = source_of(corpus)
    plan = plan_of(source)
    for count, begin in ((1, 0), (2, 5)):
        rows = [plan.slice(step, 1, 2) for step in range(begin, plan.steps)]
        found = list(PrepareOnRay(source, count)(2, iter(rows)))
        expected = list(prepare_here(source)(2, iter(rows)))
        assert len(found) == plan.steps - begin
        assert all(same(*both) for both in zip(found, expected, strict=True))
        assert not same(found[0], expected[1])
        found[0][0]["pixel_values"].zero_()  # nobody else's


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_a_process_that_dies_is_replaced_and_owes_nothing(corpus: Artifact) -> None:
    source = source_of(corpus)
    source.ballast = np.zeros(2**20)  # type: ignore[attr-defined] - as large as that of a real corpus
    plan = plan_of(source)
    rows = [plan.step(step) for step in range(plan.steps)]
    prepare = PrepareOnRay(source, 2)
    arriving, found = prepare(2, iter(rows)), []
    for step, inputs in enumerate(arriving):
        found.append(inputs)
        if step == 2:
            for process in prepare.processes():
                os.kill(process, signal.SIGKILL)
    assert all(same(*both) for both in zip(found, prepare_here(source)(2, iter(rows)), strict=True))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_a_picture_that_cannot_be_decoded_is_named(corpus: Artifact) -> None:
    source = source_of(corpus)
    plan = plan_of(source)
    source.rows._images = Broken(source.rows._images)  # type: ignore[assignment]
    with pytest.raises(CorpusError, match="of split train cannot be decoded") as raised:
        list(PrepareOnRay(source, 1)(1, iter([plan.step(0)])))
    assert "RayTaskError" not in str(raised.value)


class Broken:
    """A column of pictures of which every last one of a batch is cut off."""

    def __init__(self, column: Any) -> None:
        self._column = column

    def take(self, rows: Any, convert: Any) -> list[bytes]:
        taken: list[bytes] = self._column.take(rows, convert)
        return [*taken[:-1], taken[-1][: len(taken[-1]) // 2]]


def test_mapped_features_travel_as_their_paths(tmp_path: Path) -> None:
    features = np.arange(40_000, dtype=np.float32).reshape(-1, 4)
    np.save(tmp_path / "f.npy", features)
    table = FeatureTable([np.load(tmp_path / "f.npy", mmap_mode="r"), features[:5]], np.array([0, 10_000]))
    packed = pickle.dumps(FrozenFeatures(images=table))
    assert len(packed) < 2000
    there = pickle.loads(packed).images  # noqa: S301 - made above
    rows = np.array([10_004, 3, 9_999])
    assert torch.equal(there.take(rows), table.take(rows))


def test_how_many_there_are() -> None:
    nodes = [{"CPU": 64, "GPU": 8}, {"CPU": 12, "GPU": 4}, {"CPU": 16}]
    assert data_workers(None, "cuda", nodes) == 1
    assert data_workers(None, "cuda", nodes[:1]) == 6
    assert data_workers(None, "cuda", [{"CPU": 200, "GPU": 1}]) == 8
    assert data_workers(None, "cuda", [{"CPU": 1, "GPU": 1}]) == 0
    assert data_workers(None, "cpu", nodes) == 0
    assert data_workers(3, "cpu", nodes) == 3
    assert data_workers(0, "cuda", nodes) == 0
