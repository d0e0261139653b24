"""The README of the losses: its figures are those of the code, its examples run, it leaves nothing out."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from bcls_core import losses
from tests.benchmarks import kendall, loss_curves, record

FOLDER = Path(losses.__file__).parent
README = (FOLDER / "README.md").read_text(encoding="utf-8")
PROSE = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
RESULT = record.read("loss_curves")
PANELS = [(figure, title) for figure, panels in loss_curves.CURVES.items() for title in panels]
MOVES = [loss_curves.MOVES[place] for place in (0, 37, 61, 91, 105, 117, 150)]


def python_blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def numbers(line: str) -> list[float]:
    return [float(number) for number in line.split()]


@pytest.mark.parametrize(("figure", "title"), PANELS)
def test_curves_are_those_of_the_code(figure: str, title: str) -> None:
    places = [numbers(RESULT["score"]).index(move) for move in MOVES]
    for which, pair in loss_curves.PAIRS.items():
        values, slopes = loss_curves.curve(loss_curves.CURVES[figure][title].loss, pair, MOVES)
        for part, computed in (("value", values), ("gradient", slopes)):
            line = numbers(RESULT["curves"][figure][title][which][part])
            assert len(line) == len(loss_curves.MOVES)
            assert [line[place] for place in places] == pytest.approx(computed, rel=2e-5, abs=2e-9), (which, part)


def test_every_panel_is_in_the_results() -> None:
    assert {(figure, title) for figure, panels in RESULT["curves"].items() for title in panels} == set(PANELS)


def test_figures_on_the_page_are_those_in_the_folder_and_small() -> None:
    shown = re.findall(r"!\[[^\]]{40,}\]\((figures/[^)]+)\)", README)  # with an alternative text that says something
    there = sorted(path.relative_to(FOLDER).as_posix() for path in (FOLDER / "figures").iterdir())
    assert sorted(shown) == there == sorted(f"figures/{figure}.svg" for figure in loss_curves.CURVES)
    for name in shown:
        assert (FOLDER / name).stat().st_size < 40_000, name


def test_examples_run_one_after_the_other() -> None:
    namespace: dict[str, Any] = {}
    blocks = python_blocks()
    assert len(blocks) > 5
    for place, block in enumerate(blocks):
        exec(compile(block, f"README.md, example {place}", "exec"), namespace)  # noqa: S102
    assert namespace["scores"].grad.abs().sum() > 0
    assert namespace["contrastive"].tau.log_tau.grad != 0


def test_examples_import_what_they_use_from_the_package() -> None:
    for block in python_blocks():
        for statement in ast.walk(ast.parse(block)):
            if isinstance(statement, ast.ImportFrom) and statement.module == "bcls_core.losses":
                assert {name.name for name in statement.names} <= set(losses.__all__)


def test_the_batch_of_the_figures_is_printed() -> None:
    matrices = re.findall(r"\\begin\{pmatrix\}(.*?)\\end\{pmatrix\}", README)
    printed = [[[float(cell) for cell in row.split("&")] for row in matrix.split(r"\\")] for matrix in matrices]
    assert torch.equal(torch.tensor(printed), torch.tensor([loss_curves.SCORES, loss_curves.LABELS]))


@pytest.mark.parametrize("name", losses.__all__)
def test_every_public_name_is_in_the_readme(name: str) -> None:
    assert re.search(rf"`[^`\n]*\b{name}\b[^`\n]*`", PROSE)


def test_times_and_memory_are_those_of_the_committed_results() -> None:
    found = record.read("kendall")
    assert f"```bash\n{found['command']}" in README
    assert kendall.tables(found) in README
    assert f"{found['step']['share percent']:.2g} %" in README


def test_the_exact_hinge_keeps_its_promises() -> None:
    sizes = {row["batch"]: row for row in record.read("kendall")["sizes"]}
    assert sizes[128]["times faster"] >= 8
    assert sizes[512]["times faster"] >= 40
    assert sizes[512]["times less memory"] >= 50
    assert sizes[4096]["exact process MiB"] < 2048


def test_every_internal_link_leads_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", PROSE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", PROSE) if "://" not in link]
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        assert (FOLDER / path).exists(), link
        assert not anchor or (not path and anchor in anchors), link
