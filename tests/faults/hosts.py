"""Hosts on this machine, each with its own network, processes and shared memory, and a Ray cluster over them.

A host is a process in Linux namespaces of its own, a cable a pair of virtual interfaces, and what joins the cables a
bridge in a further namespace. None of it has a name outside: all of it ends with the processes that were started here,
and those end with this one.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.processes import below
from tests.faults.records import QUIET

_PORT = 6379
_ALONE = ("--net", "--mount", "--uts", "--ipc", "--pid", "--mount-proc")
# The first process of a host: its own shared memory and Ray folder, and its name on loopback, as Debian writes it.
# What a daemon leaves behind becomes its child; `wait` reaps it.
_FIRST = """
mount -t tmpfs tmpfs /dev/shm && mount -t tmpfs tmpfs "$1" && hostname "$2" &&
printf '127.0.0.1 localhost\\n127.0.1.1 %s\\n' "$2" >"$1/hosts" && mount --bind "$1/hosts" /etc/hosts && echo ready
sleep infinity & wait
"""


def possible() -> bool:
    """Whether there can be hosts on this machine."""
    if any(shutil.which(tool) is None for tool in ("ip", "unshare", "nsenter", "setpriv")):
        return False
    links = "ip link add bridge type bridge && ip link add cable type veth peer name end"
    tried = subprocess.run(["unshare", *_ALONE, "--fork", "sh", "-c", links], capture_output=True, check=False)
    return tried.returncode == 0


@dataclass(frozen=True)
class Host:
    """A host that runs.

    Attributes:
        name: its host name, and that of the switch's end of its cable.
        first: the first of its processes, above all others.
        outside: the process that keeps it, in the namespaces of this one.
    """

    name: str
    address: str
    first: int
    outside: subprocess.Popen[str]

    @property
    def within(self) -> list[str]:
        """What runs a command on this host, when put before it."""
        return ["nsenter", f"--target={self.first}", "--net", "--mount", "--uts", "--ipc", "--pid"]


class Hosts:
    """A Ray cluster over a virtual network: a head that computes nothing, and hosts of one CPU."""

    def __init__(self, count: int) -> None:
        """
        Args:
            count: of the hosts that compute.
        Raises:
            RuntimeError: a host or its Ray did not start; says why.
        """
        # Short, for Ray puts Unix sockets below it.
        self._folder = Path(tempfile.mkdtemp(prefix="hosts", dir="/tmp"))
        self._all: list[Host] = []
        self._outside: list[subprocess.Popen[str]] = []
        token = self._folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self.environment = QUIET | {
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
        }
        (self._folder / "ray").mkdir()
        try:
            self._switch = self._start(("--net", "--pid"), "echo ready; sleep infinity & wait").pid
            self._ip("link", "add", "bridge", "type", "bridge")
            self._ip("link", "set", "bridge", "up")
            self.head = self._add("head")
            self.address = f"{self.head.address}:{_PORT}"
            self._ray(self.head, "--head", f"--port={_PORT}", "--num-cpus=0", "--include-dashboard=false",
                      f"--temp-dir={self._folder / 'ray'}")  # fmt: skip
            self.computing: list[Host] = []
            for _ in range(count):  # one by one: Ray gives each half a minute
                self.join()
        except BaseException:
            self.close()
            raise

    def join(self) -> Host:
        """A fresh host."""
        host = self._add(f"host-{len(self._all) - 1}")
        self._ray(host, f"--address={self.address}", "--num-cpus=1")
        self.computing.append(host)
        return host

    def pull_cable(self, host: Host) -> None:
        """Its processes live on, and nobody is told."""
        self._ip("link", "set", host.name, "down")

    def plug_cable(self, host: Host) -> None:
        self._ip("link", "set", host.name, "up")

    def cut_power(self, host: Host) -> None:
        """All at once, without a last packet."""
        self.pull_cable(host)
        _end(host.outside)
        self.computing.remove(host)

    def sent(self, host: Host) -> int:
        """Bytes that came from it through its cable."""
        (link,) = json.loads(self._ip("-stats", "-json", "link", "show", "dev", host.name))
        return int(link["stats64"]["rx"]["bytes"])

    def close(self) -> None:
        for process in self._outside:
            _end(process)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _add(self, name: str) -> Host:
        number = len(self._all) + 1
        outside = self._start(_ALONE, _FIRST, str(self._folder / "ray"), name)
        host = Host(name, f"10.0.0.{number}", below(outside.pid)[0], outside)
        self._all.append(host)
        self._ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(host.first))
        self._ip("link", "set", name, "master", "bridge", "up")
        for change in (
            ("link", "set", "lo", "up"),
            ("link", "set", "eth0", "up"),
            ("address", "add", f"{host.address}/24", "dev", "eth0"),
        ):
            _run([*host.within, "ip", *change])
        return host

    def _ray(self, host: Host, *arguments: str) -> None:
        ray = str(Path(sys.executable).with_name("ray"))
        command = [*host.within, ray, "start", f"--node-ip-address={host.address}", "--disable-usage-stats"]
        command += [f"--object-store-memory={100 * 2**20}", *arguments]
        said = self._folder / f"{host.name}.log"
        with said.open("w") as log:  # not a pipe, which the daemons would keep open
            done = subprocess.run(command, env=os.environ | self.environment, stdout=log, stderr=log, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{said.read_text()[-3000:]}")

    def _start(self, namespaces: Sequence[str], script: str, *arguments: str) -> subprocess.Popen[str]:
        """A shell script in namespaces of its own, once it said that it is ready; it ends with this process."""
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", "unshare", *namespaces, "--fork", "--kill-child=KILL",
             "sh", "-c", script, "sh", *arguments],
            text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._outside.append(process)
        assert process.stdout is not None
        said = process.stdout.readline()
        if said != "ready\n":
            raise RuntimeError(f"no host could be made: {said}")
        return process

    def _ip(self, *arguments: str) -> str:
        return _run(["nsenter", f"--target={below(self._switch)[0]}", "--net", "ip", *arguments])


def _end(process: subprocess.Popen[str]) -> None:
    """Ends what keeps a namespace; the kernel kills what is in it."""
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
