"""A wheel built from the tree, installed elsewhere, runs the demo: nothing it needs stays behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.slow
def test_an_installed_wheel_runs_the_demo(tmp_path: Path, small_settings: tuple[str, ...]) -> None:
    site = tmp_path / "site"
    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(REPOSITORY))
    (wheel,) = tmp_path.glob("bcls-*.whl")
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel))
    environment = os.environ | {"PYTHONPATH": str(site)}
    where = "import bcls_core, flows; print(bcls_core.__file__, flows.__file__)"
    found = run(sys.executable, "-c", where, cwd=tmp_path, env=environment).split()
    assert all(path.startswith(str(site)) for path in found)
    overrides = [part for setting in small_settings for part in ("--set", setting)]
    command = [str(site / "bin" / "bcls"), "demo", "--local", "--json", "--root", str(tmp_path / "root"), *overrides]
    result = json.loads(run(sys.executable, *command, cwd=tmp_path, env=environment))
    assert result["registered"]["alias"] == "models:/demo@champion"
    page = tmp_path / "page.html"
    search = ["search", "--model", "models:/demo@champion", "--text", "a boat", "--html", str(page)]
    run(
        sys.executable,
        str(site / "bin" / "bcls"),
        *search,
        "--root",
        str(tmp_path / "root"),
        cwd=tmp_path,
        env=environment,
    )
    assert "<title>" in page.read_text()


def run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout
