"""`ray job submit` against a head started by `ray start --head`, as the README says."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))


def free_port() -> int:
    # Ray's own worker ports are 10002 to 19999.
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port >= 20000:
            return port


@pytest.fixture(scope="module")
def head() -> Iterator[tuple[str, dict[str, str]]]:
    """A running head: the address of its job API, and the environment that its clients need."""
    # Ray puts Unix sockets into its folder, whose paths must be short.
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    dashboard = free_port()
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--temp-dir={folder / 'ray'}"]
    command += [f"--port={free_port()}", f"--dashboard-agent-listen-port={free_port()}"]
    command += [f"--ray-client-server-port={free_port()}"]
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        address = f"http://127.0.0.1:{dashboard}"
        try:
            deadline = time.monotonic() + 240
            while subprocess.run(
                [RAY, "job", "list", "--address", address], env=environment, capture_output=True
            ).returncode:
                assert process.poll() is None, (folder / "head.log").read_text()[-3000:]
                assert time.monotonic() < deadline, "the head never answered"
                time.sleep(2)
            yield address, environment
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_submitted_training_runs_and_a_relative_root_is_refused(
    bcls: Any, small_settings: tuple[str, ...], head: tuple[str, dict[str, str]]
) -> None:
    address, environment = head
    for flow in ("ingest", "label"):
        bcls.run(flow, "-c", "demo", "--local", settings=small_settings)
    overrides = [part for setting in small_settings for part in ("--set", setting)]

    def submit(root: str) -> subprocess.CompletedProcess[str]:
        flow = ["python", "-m", "flows.train", "-c", "demo", "--root", root, *overrides]
        command = [RAY, "job", "submit", "--address", address, "--working-dir", str(REPOSITORY), "--", *flow]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    done = submit(str(bcls.root))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "best_epoch" in done.stdout
    listed = bcls.json("artifacts", "list", "training")["artifacts"]
    assert [item["current"] for item in listed] == [True]

    refused = submit("./relative")
    assert refused.returncode != 0
    assert "is relative, and a Ray job runs in a temporary copy" in " ".join((refused.stdout + refused.stderr).split())
