"""Work in processes side by side: how many, with what, and what becomes of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bcls_core.errors import ConfigError, StoreError
from bcls_core.workers import usable_processors
from flows import progress
from flows.side_by_side import Work, run_side_by_side
from flows.stopping import sigterm_noted

PATIENCE = 60.0


def note(folder: Path, name: str) -> None:
    progress.say("at work")
    (folder / name).write_text(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']}")


def fail(folder: Path) -> None:
    await_file(folder / "waits")
    raise ConfigError(f"{folder.name}: found 3, give 2.")


def fail_at_length(length: int) -> None:
    raise ConfigError("x" * length)


def die(number: int) -> None:
    os.kill(os.getpid(), number)


def raise_something() -> None:
    raise RuntimeError("not one of ours")


def meet(folder: Path, own: str, other: str) -> None:
    """Ends only if both are at work at the same time."""
    (folder / own).touch()
    await_file(folder / other)


def wait_for_ever(folder: Path) -> None:
    """As a training does: a wish to stop is noted, the step at work finished, and a checkpoint written."""
    with sigterm_noted() as noted:
        (folder / "waits").write_text(str(os.getpid()))
        noted.wait(10 * PATIENCE)
        time.sleep(1.5)
        (folder / "ended").touch()


def await_file(path: Path) -> None:
    until = time.monotonic() + PATIENCE
    while not path.exists() or (path.name == "waits" and not path.read_text()):
        assert time.monotonic() < until, f"{path} never came"
        time.sleep(0.05)


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def test_each_work_has_a_process_of_its_own_and_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    run_side_by_side([Work(f"work {name}", note, (tmp_path, name)) for name in "abc"], at_once=2)
    found = [(tmp_path / name).read_text().split() for name in "abc"]
    assert len({pid for pid, _ in found} | {str(os.getpid())}) == 4
    assert {threads for _, threads in found} == {str(max(1, usable_processors() // 2))}
    assert "OMP_NUM_THREADS" not in os.environ, "the surroundings of this process are as before"
    said = capfd.readouterr().err.splitlines()
    for place, name in enumerate("abc", start=1):
        assert f"work {name}: begun, {place} of 3" in said
        assert f"work {name}: at work" in said


def test_one_alone_has_all_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    run_side_by_side([Work("one", note, (tmp_path, "one"))], at_once=5)
    assert (tmp_path / "one").read_text().split()[1] == str(usable_processors())
    run_side_by_side([], at_once=2)


def test_threads_that_were_asked_for_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    run_side_by_side([Work("one", note, (tmp_path, "one"))], at_once=1)
    assert (tmp_path / "one").read_text().split()[1] == "7"
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_works_are_done_at_the_same_time(tmp_path: Path) -> None:
    run_side_by_side([Work("a", meet, (tmp_path, "a", "b")), Work("b", meet, (tmp_path, "b", "a"))], at_once=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"], "each waited for the other"


def test_a_failure_has_its_class_and_the_name_and_ends_the_others(tmp_path: Path) -> None:
    works = [
        Work("long", wait_for_ever, (tmp_path,)),
        Work("short", fail, (tmp_path,)),
        Work("later", note, (tmp_path, "later")),
    ]
    with pytest.raises(ConfigError, match=f"^short: {tmp_path.name}: found 3, give 2.$"):
        run_side_by_side(works, at_once=2)
    assert (tmp_path / "ended").exists(), "asked to end, not killed"
    assert not (tmp_path / "later").exists()


def test_a_message_may_be_longer_than_a_pipe_holds() -> None:
    with pytest.raises(ConfigError, match=r"^long: x{300000}$"):
        run_side_by_side([Work("long", fail_at_length, (300_000,))], at_once=1)


@pytest.mark.parametrize(
    ("do", "arguments", "how"),
    [(die, (signal.SIGKILL,), r"signal 9 \(SIGKILL\)"), (raise_something, (), "exit code 1")],
)
def test_a_process_that_ends_without_a_word_is_an_error(
    do: Callable[..., None], arguments: tuple[int, ...], how: str
) -> None:
    with pytest.raises(Exception, match=f"^only: its process ended with {how}") as caught:
        run_side_by_side([Work("only", do, arguments)], at_once=1)
    assert not isinstance(caught.value, StoreError)
    assert caught.value.exit_code == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("number", "told", "code"),
    [
        (signal.SIGTERM, "parent", 143),
        (signal.SIGTERM, "all", 143),  # ray job stop, and others who stop trees of processes
        (signal.SIGINT, "group", -signal.SIGINT),  # Ctrl-C
        (signal.SIGKILL, "parent", -signal.SIGKILL),
    ],
)
def test_no_process_outlives_who_began_it(tmp_path: Path, number: signal.Signals, told: str, code: int) -> None:
    """And what it is at is seen to its end where there is time for that."""
    script = (
        "import signal\n"
        "from pathlib import Path\n"
        "from flows.process import begin_process\n"
        "from flows.side_by_side import Work, run_side_by_side\n"
        "from tests.flows.test_side_by_side import wait_for_ever\n"
        "begin_process()\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # shells ignore it for what they start with &
        f"run_side_by_side([Work('long', wait_for_ever, (Path({str(tmp_path)!r}),))], 2)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        start_new_session=True,
    )
    await_file(tmp_path / "waits")
    child = int((tmp_path / "waits").read_text())
    if told == "group":
        os.killpg(parent.pid, number)
    else:
        for pid in [parent.pid, child][: 2 if told == "all" else 1]:
            os.kill(pid, number)
    assert parent.wait(PATIENCE) == code
    until = time.monotonic() + PATIENCE
    while not is_gone(child):
        assert time.monotonic() < until, "it is still at work"
        time.sleep(0.05)
    assert (tmp_path / "ended").exists() == (number != signal.SIGKILL)
