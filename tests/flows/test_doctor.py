"""`bcls doctor`: what is wrong is found and said, what cannot be told is said, too."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from bcls_core.config import RuntimeSettings
from bcls_core.training import self_check
from flows import doctor
from flows.context import Context
from flows.doctor import Finding


def context(root: Path, **runtime: object) -> Context:
    settings = RuntimeSettings.model_validate({"backend": "local", **runtime})
    return Context("doctor", settings, str(root))


@pytest.fixture(autouse=True)
def no_mlflow_left(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        # MLflow sets them for the processes that this one starts; they end with this test.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def by_name(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def test_a_sound_machine_is_told_what_was_not_looked_at(tmp_path: Path) -> None:
    result = doctor.run(context(tmp_path), processes=False)
    findings = {finding["check"]: finding for finding in result.as_dict()["findings"]}
    assert result.as_dict()["wrong"] == []
    assert result.exit_code == 0
    assert findings["store"]["state"] == "ok"
    assert findings["torch"]["found"].split(" from ")[1].endswith("torch")
    assert findings["Ray"]["state"] == "not checked"
    assert findings["Ray"]["found"] == "runtime.backend is local"
    assert findings["gloo: data parallelism"]["found"] == "no processes were to be started"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".doctor")] == []
    assert "0 wrong" in result.as_text()


def test_a_root_that_cannot_be_written_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    here = context(tmp_path / "file" / "root", mlflow_uri=f"sqlite:///{tmp_path}/mlflow.db")
    result = doctor.run(here, processes=False)
    assert result.as_dict()["wrong"] == ["store"]
    assert result.exit_code == 1


def test_a_store_that_overwrites_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = context(tmp_path)
    monkeypatch.setattr(type(here.store.filesystem), "put_if_absent", lambda *_, **__: True)
    (finding, _) = doctor.store(here)
    assert (finding.state, finding.advice) == ("wrong", "Put the root on another file system.")


def test_a_tracking_server_that_is_away_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, nobody listens
        here = context(tmp_path, mlflow_uri=f"http://127.0.0.1:{taken.getsockname()[1]}")
        result = doctor.run(here, processes=False)
    assert result.as_dict()["wrong"] == ["MLflow"]


@pytest.mark.parametrize(("module", "package"), [("spacy", "spacy"), ("skimage", "scikit-image")])
def test_a_module_that_hides_a_package_is_wrong(tmp_path: Path, module: str, package: str) -> None:
    (tmp_path / f"{module}.py").write_text("")
    script = f"from flows import doctor; print([f for f in doctor.packages() if f.check == {package!r}])"
    path = os.pathsep.join([str(tmp_path), str(Path(doctor.__file__).parents[1])])
    environment = os.environ | {"PYTHONPATH": path}
    shown = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "state='wrong'" in shown
    assert f"from {tmp_path}, which hides" in shown


def test_a_package_installed_from_its_folder_is_all_right(tmp_path: Path) -> None:
    (tmp_path / "site" / "edited-1.0.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "edited-1.0.dist-info" / "METADATA").write_text("Name: edited\nVersion: 1.0\n")
    origin = {"url": f"file://{tmp_path}/source", "dir_info": {"editable": True}}
    (tmp_path / "site" / "edited-1.0.dist-info" / "direct_url.json").write_text(json.dumps(origin))
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "edited.py").write_text("")
    script = "from flows import doctor; print(doctor._package('edited', None))"
    path = os.pathsep.join(map(str, (tmp_path / "source", tmp_path / "site", Path(doctor.__file__).parents[1])))
    shown = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "state='ok'" in shown
    assert f"1.0 from {tmp_path}/source, installed as editable" in shown


def test_a_package_that_is_missing_or_too_old_is_wrong() -> None:
    missing = doctor._package("no-such-package", Requirement("no-such-package>=1"))
    assert (missing.state, missing.advice) == ("wrong", "pip install no-such-package>=1")
    old = doctor._package("numpy", Requirement("numpy>=99"))
    assert old.state == "wrong"
    assert "needed is >=99" in old.found
    assert doctor._package("numpy", Requirement("numpy>=1")).state == "ok"


def test_a_token_that_is_demanded_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    assert by_name(doctor.tokens())["Ray's token"].state == "wrong"
    token.write_text("secret-of-the-head")
    token.chmod(0o644)
    first, second, _ = doctor.tokens()
    assert (first.state, second.state, second.advice) == ("ok", "note", f"chmod 600 {token}")
    assert not any("secret-of-the-head" in str(finding) for finding in doctor.tokens())


def test_a_port_that_is_taken_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        monkeypatch.setattr(doctor, "_PORTS", {"something": port})
        assert by_name(doctor.ports())[f"port {port}"].state == "note"


@pytest.mark.slow
def test_workers_that_do_not_fit_on_ray_are_wrong(bcls: Any) -> None:
    """With what prepares their inputs, as training asks for them."""
    bcls.environment["BCLS__RUNTIME__DATA_WORKERS"] = "999"
    result = bcls.json("doctor", "--no-processes", code=1)
    found = [finding for finding in result["findings"] if finding["state"] == "wrong"]
    assert [finding["check"] for finding in found] == ["Ray"]
    assert "needs 1000" in found[0]["found"]
    assert "CPUs" in found[0]["found"]
    bcls.environment["BCLS__RUNTIME__DATA_WORKERS"] = "0"
    assert bcls.json("doctor", "--no-processes")["wrong"] == []


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one() -> None:
    findings = by_name(doctor.two_processes(start=True))
    for way in doctor._WAYS.values():
        assert findings[f"gloo: {way}"].state == "ok"


def test_processes_that_differ_or_die_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "two_processes", lambda *_: 0.5)
    assert doctor._compared("x", "gloo", "ddp", 1e-5).state == "wrong"

    def say_nothing(*_: object) -> float:
        raise MemoryError

    monkeypatch.setattr(self_check, "two_processes", say_nothing)
    assert doctor._compared("x", "gloo", "ddp", 1e-5).found == "MemoryError"

    def die(*_: object) -> float:
        raise RuntimeError("trace\nConnection refused")

    monkeypatch.setattr(self_check, "two_processes", die)
    found = doctor._compared("x", "gloo", "ddp", 1e-5)
    assert (found.state, found.found) == ("wrong", "RuntimeError: Connection refused")
