"""From a source to the pieces that make its corpus, and from their results to what is said about it.

    inputs = input_digest(settings, run)
    draft = store.draft("corpus", fingerprint(determinants_of(settings, inputs))[:16], layout=…)
    plan = plan_ingest(settings, shard_images, draft, run)
    statistics = plan.finish(run(plan.worker, plan.arguments, plan.pieces, "ingesting images"), inputs)

Nobody but the workers ever holds captions or images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import PIL

from bcls_core.config import DemoIngest, IngestSettings, KarpathyIngest, content_of
from bcls_core.data.demo import CAPTIONS_PER_SCENE, split_size
from bcls_core.data.inputs import FileSum, Piece, Result, Run
from bcls_core.data.karpathy import read_karpathy
from bcls_core.data.rejects import CAPTIONS_SOURCE, IMAGES_SOURCE
from bcls_core.data.schema import SPLITS
from bcls_core.data.shard_file import ShardPlan, write_plan
from bcls_core.data.shards import DemoShard, IngestShard
from bcls_core.errors import BclsError, CorpusError
from bcls_core.store import Draft

ALGORITHM_VERSION = 1
"""Raised by hand when the same input and settings give other rows."""


def determinants_of(settings: IngestSettings, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """All that determines a corpus: `inputs` as `input_digest` gives them, content settings, algorithm version."""
    determinants = {
        "stage": "ingest",
        "algorithm": ALGORITHM_VERSION,
        "settings": content_of(settings),
        "inputs": dict(inputs),
    }
    if isinstance(settings, KarpathyIngest) and settings.resize is not None:
        determinants["encoder"] = f"Pillow {PIL.__version__}"  # another one may write other bytes
    return determinants


@dataclass(frozen=True)
class IngestPlan:
    """The pieces of an ingest, for a worker class and its arguments.

    Attributes:
        input_rows: rows of the source, by "images" and "captions".
        annotations: sha256 of the annotations that were planned; None without.
    """

    worker: type
    arguments: dict[str, Any]
    pieces: list[Piece]
    input_rows: dict[str, int]
    annotations: str | None

    def finish(self, results: Sequence[Result], inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The statistics of the corpus, after checking that no row was lost and that the input stayed what it was.

        Args:
            results: of all pieces.
            inputs: as `input_digest` gave them before.
        Returns:
            "images", "captions": each with input, accepted, rejected; "rejects": source -> reason -> rows; "splits":
            split -> images and captions.
        Raises:
            CorpusError: nothing was accepted, or the input changed meanwhile.
            BclsError: rows were lost.
            After either the draft is discarded, so that the next attempt reads everything anew.
        """
        try:
            return self._checked(results, inputs)
        except BclsError:
            self.arguments["draft"].discard()
            raise

    def _checked(self, results: Sequence[Result], inputs: Mapping[str, Any]) -> dict[str, Any]:
        statistics = summarise(self.input_rows, results)
        self._check_input_unchanged(results, inputs)
        if statistics["images"]["accepted"] == 0:
            reasons = ", ".join(f"{reason} {rows}" for reason, rows in statistics["rejects"]["images"].items())
            raise CorpusError(
                f"all {self.input_rows['images']} images of the source were rejected ({reasons}): there is no corpus. "
                "Check ingest.images or ingest.features."
            )
        return statistics

    def _check_input_unchanged(self, results: Sequence[Result], inputs: Mapping[str, Any]) -> None:
        changed = [] if inputs.get("annotations") == self.annotations else ["the annotations"]
        if "images" in inputs and FileSum.of(result["sum"] for result in results).digest() != inputs["images"]:
            changed.append("images")
        if changed:
            raise CorpusError(f"{' and '.join(changed)} changed while they were read. Run the ingest again.")


class PlanShards:
    """Piece worker: reads the annotations and leaves a plan for every shard in the draft's scratch.

    The result: `shards`, their number; `input_rows`; `annotations`, their sha256. Rejects known from the annotations
    alone go into shard 0.
    """

    def __init__(self, settings: KarpathyIngest, shard_images: int, draft: Draft) -> None:
        self._settings = settings
        self._shard_images = shard_images
        self._draft = draft

    def __call__(self, _piece: Piece) -> Result:
        annotations = read_karpathy(self._settings.annotations, splits=self._settings.splits)
        shards = 0
        for split, group in groupby(annotations.records, key=lambda record: record.split):
            records = list(group)
            for start in range(0, len(records), self._shard_images):
                rejects = [] if shards else annotations.rejects
                plan = ShardPlan(split, records[start : start + self._shard_images], rejects)
                write_plan(self._draft, shards, plan)
                shards += 1
        input_rows = {IMAGES_SOURCE: annotations.input_images, CAPTIONS_SOURCE: annotations.input_captions}
        return {"shards": shards, "input_rows": input_rows, "annotations": annotations.sha256}


def plan_ingest(settings: IngestSettings, shard_images: int, draft: Draft, run: Run) -> IngestPlan:
    """Cuts a source into shards of at most `shard_images` images of one split.

    Raises:
        CorpusError: the annotations cannot be used.
    """
    if isinstance(settings, DemoIngest):
        return _plan_demo(settings, shard_images, draft)
    arguments = {"settings": settings, "draft": draft}
    planning = arguments | {"shard_images": shard_images}
    (planned,) = run(PlanShards, planning, [{"piece": "plan"}], "planning shards")
    pieces = [{"piece": f"shard-{part:05d}", "part": part} for part in range(planned["shards"])]
    return IngestPlan(IngestShard, arguments, pieces, planned["input_rows"], planned["annotations"])


def summarise(input_rows: Mapping[str, int], results: Sequence[Result]) -> dict[str, Any]:
    """Counts over all shards, see `IngestPlan.finish`.

    Raises:
        BclsError: for a source, input rows are not accepted + rejected rows.
    """
    statistics: dict[str, Any] = {"rejects": {}, "splits": {}}
    for source in (IMAGES_SOURCE, CAPTIONS_SOURCE):
        reasons: Counter[str] = Counter()
        for result in results:
            reasons.update(result["rejects"][source])
        accepted, rejected = sum(result[source] for result in results), reasons.total()
        if accepted + rejected != input_rows[source]:
            raise BclsError(
                f"{input_rows[source]} {source} went in, {accepted} were accepted, {rejected} rejected: rows got lost."
                " Nothing was published; this is a fault of the program, please report it with the recipe."
            )
        statistics[source] = {"input": input_rows[source], "accepted": accepted, "rejected": rejected}
        statistics["rejects"][source] = dict(sorted(reasons.items()))
    for split in SPLITS:
        own = [result for result in results if result["split"] == split]
        statistics["splits"][split] = {s: sum(r[s] for r in own) for s in (IMAGES_SOURCE, CAPTIONS_SOURCE)}
    return statistics


def _plan_demo(settings: DemoIngest, shard_images: int, draft: Draft) -> IngestPlan:
    ranges = [
        {"split": split, "start": start, "stop": min(start + shard_images, split_size(settings, split))}
        for split in SPLITS
        for start in range(0, split_size(settings, split), shard_images)
    ]
    pieces = [{"piece": f"shard-{part:05d}", "part": part} | place for part, place in enumerate(ranges)]
    images = sum(split_size(settings, split) for split in SPLITS)
    input_rows = {IMAGES_SOURCE: images, CAPTIONS_SOURCE: images * CAPTIONS_PER_SCENE}
    return IngestPlan(DemoShard, {"settings": settings, "draft": draft}, pieces, input_rows, None)
