"""Processes to be killed: those below one of ours, found in /proc, and the nodes of a Ray cluster of our own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path


class Nodes:
    """A Ray cluster on this machine: a head that computes nothing, and nodes that do."""

    def __init__(self, cpus: int = 2, count: int = 2) -> None:
        """
        Args:
            cpus: of each node that computes.
            count: of these nodes.
        """
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self._cpus = cpus
        self._nodes = [self._cluster.add_node(num_cpus=cpus) for _ in range(count)]
        self.address: str = self._cluster.address
        self.head = int(self._cluster.head_node.all_processes["raylet"][0].process.pid)

    def raylets(self) -> list[int]:
        return [int(node.all_processes["raylet"][0].process.pid) for node in self._nodes]

    def replace(self, raylet: int) -> None:
        """A fresh node for the dead one."""
        self.bury(raylet)
        self.add()

    def add(self) -> None:
        self._nodes.append(self._cluster.add_node(num_cpus=self._cpus))

    def announce(self, raylet: int, seconds: int) -> None:
        """Tells Ray that a node will be taken away after so many seconds; taking it is the caller's."""
        node = self._nodes[self.raylets().index(raylet)]
        drain = [
            str(Path(sys.executable).with_name("ray")), "drain-node", f"--address={self.address}",
            f"--node-id={node.node_id}", "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=announced",
            f"--deadline-remaining-seconds={seconds}",
        ]  # fmt: skip
        subprocess.run(drain, check=True, capture_output=True)

    def bury(self, raylet: int) -> None:
        """A dead node is missed by nobody."""
        self._cluster.remove_node(self._nodes.pop(self.raylets().index(raylet)), allow_graceful=False)

    def close(self) -> None:
        self._cluster.shutdown()


def busy(home: int) -> list[int]:
    """Ray's worker processes below a process that are at a piece."""
    return titled(home, "ray::Map")


def titled(home: int, *beginnings: str) -> list[int]:
    """Processes below a process whose title begins so: Ray titles its own by what they do."""
    return [pid for pid in below(home) if _read(pid, "cmdline").startswith(beginnings)]


def below(pid: int) -> list[int]:
    """A process's children, theirs, and so on."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        status = _read(int(entry.name), "stat").rpartition(")")[2].split()
        if status:
            children.setdefault(int(status[1]), []).append(int(entry.name))
    found = list(children.get(pid, []))
    for one in found:
        found += children.get(one, [])
    return found


def freeze(pid: int) -> list[int]:
    """Stops a process and all below it; what is stopped can start no more."""
    frozen: list[int] = []
    while fresh := [one for one in (pid, *below(pid)) if one not in frozen]:
        send(fresh, signal.SIGSTOP)
        frozen += fresh
    return frozen


def send(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _read(pid: int, name: str) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    return ""
