"""What is said about the time left."""

from __future__ import annotations

import pytest
from rich.console import Console

from flows import progress
from flows.progress import Estimate, progress_bar


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_time_left_is_by_the_work_of_this_run_alone() -> None:
    clock = Clock()
    estimate = Estimate(total=1000, completed=500, clock=clock)
    assert estimate.left is None
    assert estimate.as_text() == "50 %, 0 s gone, time left not known yet"
    clock.now += 60
    estimate.completed += 100
    assert estimate.left == pytest.approx(240)
    assert estimate.as_text() == "60 %, 60 s gone, about 4 min left"
    clock.now += 40 * 3600
    assert estimate.as_text().endswith("40.0 h gone, about 160.1 h left")
    assert Estimate(total=0, completed=0).as_text().startswith("100 %")


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "console", Console(stderr=True, force_terminal=False, width=120))
    monkeypatch.setattr(progress, "_SILENT_SECONDS", 0.0)
    with progress_bar("minilm: neighbours", total=4, completed=1) as advance:
        advance(1)
        advance(2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, "the end needs no line"
    assert lines[0].startswith("minilm: neighbours: 50 %")
    monkeypatch.setattr(progress, "_SILENT_SECONDS", 30.0)
    with progress_bar("short", total=2) as advance:
        advance(1)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "console", Console(stderr=True, force_terminal=True, width=120))
    with progress_bar("cider: captions", total=2) as advance:
        advance(1)
    assert "cider: captions" in capsys.readouterr().err
