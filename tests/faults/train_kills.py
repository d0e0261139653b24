"""SIGKILL in the middle of `bcls train` on Ray: of workers, of whole nodes, of Ray Train's controller, of drivers.

    python -m tests.faults.train_kills            # writes tests/faults/results/train_kills.json
    python -m tests.faults.train_kills --kills 4 --seed 1 --result /tmp/kills.json

Every run trains on a fresh copy of one corpus of drawn scenes with its labels and suffers up to two kills, each after a
number of steps that is drawn by seed. Steps are counted by the student itself (`counted_student.py`). A dead node is
replaced by a fresh one, a dead driver's command is given again; whatever else dies is Ray Train's and the flow's to
mend. Afterwards the model and the metrics of all epochs must be those of a training that nobody disturbed, bit for bit,
and a kill must have cost at most one checkpoint interval of steps. The command exits 1 where that fails. Nothing is
signalled that this command did not start.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bcls_core.store import Artifact, Store
from tests.faults.counted_student import FOLDER, counted
from tests.faults.processes import Nodes, freeze, send, titled
from tests.faults.records import LONGEST, QUIET, run_campaign

REPOSITORY = Path(__file__).parents[2]
WORKERS, EPOCHS, INTERVAL = 2, 3, 4
SETTINGS = (
    "ingest.train=64", "ingest.val=16", "ingest.test=16", "ingest.size=32", "label.neighbours=8",
    "label.gap_pairs=2000", "train.student={kind: custom, target: 'tests.faults.counted_student:CountedStudent'}",
    "train.objective=[{loss: triplet, mining: soft, tau: 0.1}, {loss: info-nce}]", "train.batch_size=16",
    f"train.epochs={EPOCHS}", "train.average=0.9", f"runtime.workers={WORKERS}", f"runtime.checkpoint_steps={INTERVAL}",
)  # fmt: skip

VICTIMS = ("worker", "node", "controller", "driver")
TITLES = {"worker": "ray::RayTrainWorker", "controller": "ray::TrainController"}


@dataclass(frozen=True)
class Kill:
    """Who dies when: `share` of all steps of the training have begun."""

    victim: str
    share: float


@dataclass(frozen=True)
class Calm:
    """The training that nobody disturbed, and what it was made from."""

    home: Path
    training: Artifact
    steps: int


@dataclass
class Run:
    """One training under kills."""

    kills: list[dict[str, Any]] = field(default_factory=list)


class Driver:
    """`bcls train` as a process, with all that it starts."""

    def __init__(
        self,
        root: Path,
        address: str | None,
        *settings: str,
        within: Sequence[str] = (),
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """
        Args:
            address: of a Ray cluster; None for a Ray of its own.
            within: a command that runs the command after it.
            variables: of its environment, beside this process's.
        """
        environment = os.environ | QUIET | {"PYTHONPATH": str(REPOSITORY)} | dict(variables)
        environment.pop("RAY_ADDRESS", None)
        if address is not None:
            environment["RAY_ADDRESS"] = address
        self._log = root.with_suffix(".log")
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                [*within, *command("train", root, *settings)], env=environment, cwd=root.parent, stdout=log, stderr=log
            )

    def finish(self) -> None:
        """Waits for its success."""
        code = self.process.wait(LONGEST)
        if code:
            raise RuntimeError(f"bcls train ended with exit code {code}:\n{self.said()[-3000:]}")

    def said(self) -> str:
        """What it wrote to both its streams."""
        return self._log.read_text()

    def kill(self) -> None:
        """Ends it where it has not ended."""
        if self.process.poll() is None:
            send(freeze(self.process.pid), signal.SIGKILL)
            self.process.wait()


def plan(kills: int, seed: int) -> list[list[Kill]]:
    """As many kills of every kind, at most two to a run, in order of their moments."""
    choice = random.Random(seed)  # noqa: S311
    drawn = [Kill(VICTIMS[number % len(VICTIMS)], choice.uniform(0.05, 0.95)) for number in range(kills)]
    choice.shuffle(drawn)
    return [sorted(drawn[at : at + 2], key=lambda kill: kill.share) for at in range(0, len(drawn), 2)]


def make_source(home: Path) -> Path:
    """Corpus and labels."""
    os.environ[FOLDER] = str(home / "steps")
    count_anew(home)
    root = home / "source"
    for flow in ("ingest", "label"):
        environment = os.environ | QUIET | {"PYTHONPATH": str(REPOSITORY)}
        subprocess.run([*command(flow, root), "--local"], check=True, env=environment, stdout=subprocess.DEVNULL)
    return root


def make_calm(home: Path, workers: int = WORKERS) -> Calm:
    """Corpus, labels, and the training without a kill."""
    root = home / "calm"
    shutil.copytree(make_source(home), root)
    Driver(root, None, f"runtime.workers={workers}").finish()
    steps = counted(home / "steps")
    if len(steps) != workers or len(set(steps.values())) != 1:
        raise RuntimeError(f"the ranks of the undisturbed training took {steps} steps")
    return Calm(home, Store(root).current("training"), steps[0])


def run_with_kills(calm: Calm, kills: list[Kill], root: Path, nodes: Nodes | None, choice: random.Random) -> Run:
    """Trains on a copy of corpus and labels under these kills."""
    shutil.copytree(calm.home / "source", root)
    count_anew(calm.home)
    address = nodes.address if nodes else None
    driver, run = Driver(root, address), Run()
    try:
        for kill in kills:
            struck = _strike(calm, kill, driver, nodes, choice)
            if struck is None:
                run.kills.append({"kind": kill.victim, "missed": True})
                continue
            victim, step = struck
            run.kills.append({"kind": kill.victim, "at_step": step})
            if kill.victim == "node" and nodes is not None:
                nodes.replace(victim)
            if kill.victim == "driver":
                driver.process.wait()
                driver = Driver(root, address)
        driver.finish()
    finally:
        driver.kill()
    return run


def _strike(
    calm: Calm, kill: Kill, driver: Driver, nodes: Nodes | None, choice: random.Random
) -> tuple[int, int] | None:
    """Kills at the moment: who died, and how many steps had begun; None if the driver ended before."""
    deadline = time.monotonic() + LONGEST
    while driver.process.poll() is None and time.monotonic() < deadline:
        begun = _begun(calm.home)
        if begun < kill.share * calm.steps:
            time.sleep(0.003)
            continue
        homes = nodes.raylets() if nodes else [driver.process.pid]
        if kill.victim == "driver":
            victims = [driver.process.pid]
        elif kill.victim == "node":
            victims = [home for home in homes if titled(home, TITLES["worker"])]
        else:
            everywhere = homes + ([nodes.head] if nodes else [])
            victims = [pid for home in everywhere for pid in titled(home, TITLES[kill.victim])]
        if victims:
            victim = choice.choice(victims)
            send(freeze(victim), signal.SIGKILL)
            return victim, begun
    return None


def claims_of(run: Run, calm: Calm, root: Path) -> dict[str, bool]:
    """What must hold of a training, whatever was killed."""
    training = Store(root).current("training")
    struck = sum("missed" not in kill for kill in run.kills)
    most = calm.steps + struck * (INTERVAL + 1)  # and the step at work
    return {
        "equal content": training.content_digest == calm.training.content_digest,
        "no damage": Store(root).verify(training, deep=True) == [],
        "published once": len(Store(root).publications("training")) == 1,
        "at most an interval repeated": all(steps <= most for steps in counted(calm.home / "steps").values()),
        "no step left out": all(steps >= calm.steps for steps in counted(calm.home / "steps").values()),
    }


def campaign(kills: int, seed: int, home: Path) -> Iterator[dict[str, Any]]:
    """Records of the runs, as they end; each names the claims that failed in it."""
    calm, nodes = make_calm(home), None
    choice = random.Random(seed)  # noqa: S311
    with contextlib.ExitStack() as stack:
        for number, planned in enumerate(plan(kills, seed)):
            on_nodes = any(kill.victim == "node" for kill in planned)
            if nodes is None and on_nodes:
                os.environ["PYTHONPATH"] = str(REPOSITORY)
                nodes = Nodes()
                stack.callback(nodes.close)
            root, started = home / f"run-{number:02d}", time.perf_counter()
            run = run_with_kills(calm, planned, root, nodes if on_nodes else None, choice)
            claims = claims_of(run, calm, root)
            shutil.rmtree(root)
            yield {
                "ray": "nodes" if on_nodes else "own",
                "kills": run.kills,
                "steps": calm.steps,
                "steps_begun": max(counted(calm.home / "steps").values()),
                "seconds": round(time.perf_counter() - started, 1),
                "failed": [name for name, holds in claims.items() if not holds],
            }


def main(arguments: list[str]) -> int:
    facts = {"workers": WORKERS, "checkpoint_steps": INTERVAL}
    return run_campaign("train_kills", __doc__, arguments, campaign, VICTIMS, facts)


def command(flow: str, root: Path, *settings: str) -> list[str]:
    """A flow's command line, as a user would give it."""
    overrides = [part for setting in (*SETTINGS, *settings) for part in ("--set", setting)]
    return [sys.executable, "-m", "flows.cli", flow, "-c", "demo", "--root", str(root), *overrides]


def count_anew(home: Path) -> None:
    """Forgets the steps that were counted."""
    shutil.rmtree(home / "steps", ignore_errors=True)
    (home / "steps").mkdir()


def _begun(home: Path) -> int:
    return max(counted(home / "steps").values(), default=0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
