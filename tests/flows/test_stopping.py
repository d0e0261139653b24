"""When SIGTERM is a wish, and when it ends a process."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from flows import stopping
from flows.process import begin_process


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    begin_process()
    yield
    signal.signal(signal.SIGTERM, before)


def test_one_wish_may_come_by_several_ways() -> None:
    asked = []
    with stopping.sigterm_noted(lambda: asked.append("once")) as noted:
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        assert noted.is_set()
    assert asked == ["once"]
    with pytest.raises(SystemExit) as ended:
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143


def test_a_later_one_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_ONE_WISH", -1.0)
    with stopping.sigterm_noted() as noted:
        signal.raise_signal(signal.SIGTERM)
        assert noted.is_set()
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGTERM)
