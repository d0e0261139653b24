"""What one shard is to be made of: a file that planning leaves in a draft's scratch for the worker of the shard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bcls_core.data.records import CaptionRecord, ImageRecord
from bcls_core.data.rejects import Reason, Reject
from bcls_core.store import Draft


@dataclass(frozen=True)
class ShardPlan:
    """The images of one shard, all of `split`, and rejects known before any image was read."""

    split: str
    records: Sequence[ImageRecord]
    rejects: Sequence[Reject]


def write_plan(draft: Draft, part: int, plan: ShardPlan) -> None:
    """Leaves the plan of shard `part` in the draft's scratch."""
    draft.scratch.write_bytes(_path(part), json.dumps(asdict(plan)).encode())


def read_plan(draft: Draft, part: int) -> ShardPlan:
    """The plan of shard `part`."""
    with draft.scratch.open(_path(part)) as file:
        content = json.load(file)
    records = [
        ImageRecord(
            image["image_id"],
            image["split"],
            tuple(image["paths"]),
            tuple(CaptionRecord(**caption) for caption in image["captions"]),
        )
        for image in content["records"]
    ]
    rejects = [Reject(item["source"], item["key"], Reason(item["reason"])) for item in content["rejects"]]
    return ShardPlan(content["split"], records, rejects)


def _path(part: int) -> str:
    return f"plan/part-{part:05d}.json"
