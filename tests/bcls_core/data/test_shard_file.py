from __future__ import annotations

from pathlib import Path

from bcls_core.data.records import CaptionRecord, ImageRecord
from bcls_core.data.rejects import Reason, Reject
from bcls_core.data.shard_file import ShardPlan, read_plan, write_plan
from bcls_core.store import Store


def test_a_plan_comes_back_as_it_was(tmp_path: Path) -> None:
    draft = Store(tmp_path).draft("corpus", "v1")
    records = [
        ImageRecord("ä.jpg", "val", ("sub/ä.jpg", "ä.jpg"), (CaptionRecord(2**63 - 1, "tief\u2028e \x01 🚤"),)),
        ImageRecord("b.jpg", "val", ("b.jpg",), ()),
    ]
    plan = ShardPlan("val", records, [Reject("captions", "\ud800", Reason.NOT_TEXT)])

    write_plan(draft, 3, plan)

    assert read_plan(draft, 3) == plan
    assert draft.entries() == []  # no part of the version
