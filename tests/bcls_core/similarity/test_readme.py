"""The README of similarity: its examples run, its tables and its figure are those of the cost model and the results."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from bcls_core import similarity
from bcls_core.similarity import cost
from bcls_core.similarity.cost import AllPairs
from tests.benchmarks import all_pairs_page, record

README = (Path(similarity.__file__).parent / "README.md").read_text(encoding="utf-8")
FOUND = record.read("all_pairs")


def block(name: str) -> str:
    found = re.search(rf"<!-- begin {name} -->\n\n(.*?)\n\n<!-- end {name} -->", README, re.DOTALL)
    assert found is not None, name
    return found[1]


def rows_of(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_examples_run_one_after_the_other() -> None:
    pytest.importorskip("faiss", reason="faiss is missing: pip install 'bcls[ann]'")
    namespace: dict[str, Any] = {}
    blocks = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for place, example in enumerate(blocks):
        exec(compile(example, f"README.md, example {place}", "exec"), namespace)  # noqa: S102
    assert namespace["ids"].shape == namespace["found"].shape == (2000, 10)
    assert (namespace["near"] <= namespace["scores"]).all()


@pytest.mark.parametrize("name", ["measured", "costs", "reach", "beyond"])
def test_every_table_is_that_of_the_committed_results(name: str) -> None:
    assert block(name) == all_pairs_page.blocks(FOUND)[name]


def test_the_page_written_anew_is_the_page() -> None:
    assert all_pairs_page.rewritten(README, FOUND) == README
    with pytest.raises(LookupError, match="costs"):
        all_pairs_page.rewritten(README.replace("begin costs", "begin something"), FOUND)


def test_costs_follow_from_the_definitions() -> None:
    rates = {part: FOUND[part]["GFLOP/s"] for part in ("all", "shard")}
    once, shard = rates["all"]["ours"] * 1e9, rates["shard"] * 1e9
    table = rows_of(block("costs"))
    assert [row[0] for row in table] == ["155,070", "1,000,000", "10,000,000", "100,000,000", "1,000,000,000"]
    for row in table:
        n, d = int(row[0].replace(",", "")), FOUND["dimension"]
        digits, exponent = row[1].translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")).split("·10")
        assert float(digits) * 10.0 ** int(exponent) == pytest.approx(d * n * (n - 1), rel=0.05)
        of_rows = 2 * 2 * d * n
        assert _bytes(row[2]) == pytest.approx(of_rows + 12 * FOUND["k"] * n + 64 * n, rel=0.1)
        assert of_rows <= _bytes(row[3]) * 1.01
        assert _bytes(row[4]) == pytest.approx((12 * FOUND["k"] + 16) * n, rel=0.01)
        wanted = d * n * (n - 1) / once, 2 * d * n * n / (shard * 64 / FOUND["threads"]), 2 * d * n * n / 400e12
        assert [_seconds(cell) for cell in row[5:]] == pytest.approx(wanted, rel=0.01)


def test_what_is_assumed_or_extrapolated_is_said() -> None:
    assert re.search(r"400\s+TFLOP/s,\s+which\s+is\s+assumed", block("costs"))
    assert re.search(r"64\s+cores\s+are\s+an\s+extrapolation", block("costs"))
    for name in ("costs", "reach"):
        heading = block(name).splitlines()[0]
        assert "64 cores, extrapolated" in heading
        assert "a GPU, assumed" in heading
    assert "64 cores, extrapolated" in block("beyond").splitlines()[0]


def test_reach_is_the_most_that_fits() -> None:
    times = {"an hour": 3600, "a day": 86_400, "30 days": 30 * 86_400}
    rates = FOUND["all"]["GFLOP/s"]["ours"] * 1e9, FOUND["shard"]["GFLOP/s"] * 1e9 * 64 / FOUND["threads"], 400e12
    for name, *cells in rows_of(block("reach")):
        for cell, rate, each in zip(cells, rates, (1, 2, 2), strict=True):
            number, _, unit = cell.partition(" ")
            count = float(number.replace(",", "")) * {"": 1, "million": 1e6, "billion": 1e9}[unit]
            assert count**2 * each * FOUND["dimension"] / rate == pytest.approx(times[name], rel=0.12)


def test_less_is_less() -> None:
    table = rows_of(block("beyond"))
    assert len(table) == 4
    for row in table:
        n, clusters = (int(cell.replace(",", "")) for cell in row[:2])
        assert clusters == round(n**0.5)
        products = n * (clusters + 32 * n / clusters) + clusters * (10 * 64 * clusters + n)
        assert float(row[4].rstrip("x")) == pytest.approx(n * n / products, rel=0.01)


def test_measured_seconds_are_on_the_page() -> None:
    table = rows_of(block("measured"))
    assert len(table) == 6
    for row in table:
        (part,) = (part for part in ("sample", "all") if f"{FOUND[part]['captions']:,}" == row[0])
        (name,) = (name for name, shown in all_pairs_page.NAMES.items() if shown == row[1])
        race = FOUND[part]
        assert float(row[2].replace(",", "")) == pytest.approx(race["seconds"][name], rel=0.01)
        if row[3]:
            assert float(row[3].rstrip("x")) == pytest.approx(race["seconds"][name] / race["seconds"]["ours"], rel=0.02)


def test_results_are_consistent() -> None:
    for part in ("sample", "all"):
        race, d = FOUND[part], FOUND["dimension"]
        n = race["captions"]
        for name, flop in (("ours", d * n * (n - 1)), ("faiss", 2 * d * n * n), ("semantic_search", 2 * d * n * n)):
            assert race["GFLOP/s"][name] == pytest.approx(flop / race["seconds"][name] / 1e9, rel=0.02)
        for compared in race["compared"].values():
            assert 0 <= compared["largest"] <= compared["allowed"]
            assert compared["ties"] <= compared["ids"]
    assert str(FOUND["captions"]) in FOUND["points"]


def test_memory_of_the_model_is_that_measured() -> None:
    measured = FOUND["memory"]["all"]
    model = AllPairs(measured["captions"], FOUND["dimension"], FOUND["k"]).memory()
    beyond_tiles = model.total - cost.TILE_BYTES
    assert 0.9 * beyond_tiles <= sum(measured["ours"].values()) * 2**20 <= 1.1 * model.total


def test_a_byte_serves_as_many_products_as_the_page_says() -> None:
    pairs = AllPairs(10**9)
    assert "4,032 columns" in README
    assert "2,016 multiply-adds" in README.replace("\n", " ")
    assert pairs.multiply_adds() / pairs.bytes_read() == pytest.approx(2016, rel=1e-3)


def test_the_figure_is_that_of_the_results(tmp_path: Path) -> None:
    all_pairs_page.draw(tmp_path / "seconds.svg", FOUND)
    drawn = (tmp_path / "seconds.svg").read_text()
    assert drawn == all_pairs_page.FIGURE.read_text()
    assert len(drawn) < 40_000
    shown = re.findall(r"!\[[^\]]{40,}\]\((figures/[^)]+)\)", README)
    assert shown == ["figures/seconds.svg"]
    assert [path.name for path in all_pairs_page.FIGURE.parent.iterdir()] == ["seconds.svg"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.00012, "0.0001"), (0.01234, "0.0123"), (1.0, "1"), (99.96, "100"), (999.4, "999"), (1234.0, "1,230"),
     (9996.0, "10,000"), (123_456_789.0, "123,000,000")],
)  # fmt: skip
def test_three_digits(value: float, shown: str) -> None:
    assert all_pairs_page._short(value) == shown


def _seconds(text: str) -> float:
    number, unit = text.split()
    return float(number.replace(",", "")) * {"s": 1, "min": 60, "h": 3600}[unit]


def _bytes(text: str) -> float:
    number, unit = text.split()
    return float(number.replace(",", "")) * {"MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]


def test_the_job_and_the_encoder_are_as_fast_as_the_page_says() -> None:
    job, encoder = record.read("label_job"), record.read("embedding")
    text = " ".join(README.split())
    kept, encoded = job["cached"], job["computed"]
    for said in (
        f"in {kept['seconds']['job']:.1f} s where the embeddings of {kept['captions']:,} captions were kept",
        f"in {encoded['seconds']['job']:.1f} s where {encoded['captions']:,} captions had to be encoded",
        f"took {kept['seconds']['script']:.1f} s and {encoded['seconds']['script']:.1f} s",
        f"Starting Ray took {job['seconds to start Ray']:.1f} s",
        f"at {encoder['2 threads']['ratio']} times the rate",
    ):
        assert said in text, said


def test_an_inverted_file_is_as_slow_as_the_page_says() -> None:
    found = record.read("ivf")
    probed = found["search"]["probes"]["32"]
    recall, low, high = probed["recall"]
    text = " ".join(README.split())
    for said in (
        f"At {found['captions']:,} captions it is even the faster one: 32 of {found['clusters']} clusters hold "
        f"{recall:.3f} [{low:.3f}, {high:.3f}] of the {found['k']} nearest",
        f"takes {probed['seconds']:.1f} s for {found['search']['panel']:,} captions (faiss's inverted file "
        f"{probed['faiss seconds']:.1f} s), looking everywhere {found['search']['exact seconds']:.1f} s",
    ):
        assert said in text, said


def test_what_a_change_takes_is_what_was_measured() -> None:
    found = record.read("incremental")["images gone and new"]
    text = " ".join(README.split())
    little, more = found["0.001"], found["0.01"]
    for part in (little, more):
        assert f"{part['seconds']['built upon']} s instead of {part['seconds']['all']} s" in text
    assert f"{more['lists']['repaired']:,} of {more['captions']:,} lists having lost too much" in text
