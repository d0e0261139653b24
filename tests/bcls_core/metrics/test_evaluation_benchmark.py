"""The committed results of `tests.benchmarks.evaluation` keep what is promised of them."""

from __future__ import annotations

from tests.benchmarks import record


def test_an_evaluation_keeps_its_promises() -> None:
    found = record.read("evaluation")
    benchmarks = found["benchmarks"]
    assert found["gallery"] == {"images": 5000, "captions": 25_000, "dimensions": 512}
    assert benchmarks["times faster"]["eccv_caption"] >= 30  # from encodings, as ours
    assert benchmarks["times faster"]["eccv_caption, rankings ready"] >= 15
    assert found["memory"]["process MiB"] < 1024
    assert benchmarks["deciding ties"] == 0
    assert set(benchmarks["largest difference"]) == {"eccv_caption", "brute force"}
    assert max(benchmarks["largest difference"].values()) <= 1e-9
    assert found["agreement"]["largest difference"] <= 1e-9
