"""Compiled code outlives a damaged or a full cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import torch
from bcls_core.losses import kendall_loss
scores, labels = torch.tensor([[0.1, 0.4], [0.3, 0.2]]), torch.tensor([[1.0, 0.2], [0.4, 1.0]])
print(kendall_loss(scores, labels).item())
"""


def run(cache: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    return subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)


@pytest.mark.parametrize("kind", [".nbi", ".nbc"])
def test_a_damaged_cache_is_told_and_passed_over(kind, tmp_path):
    first = run(tmp_path)
    damaged = list(tmp_path.rglob(f"*{kind}"))
    assert damaged
    for path in damaged:
        path.write_bytes(path.read_bytes()[:10] if kind == ".nbc" else b"")
    again = run(tmp_path)
    assert again.stdout == first.stdout
    assert f"compiled code in {tmp_path}" in again.stderr
    assert "NUMBA_CACHE_DIR" in again.stderr


def test_a_disk_that_is_full_is_no_reason_to_stop(tmp_path, monkeypatch):
    import numba.core.caching

    from bcls_core.compiled import compiled

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(numba.core.caching.IndexDataCacheFile, "save", full)
    assert compiled(lambda number: number + 1)(2) == 3


def test_kept_code_is_stale_once_a_file_it_calls_changed(tmp_path, monkeypatch):
    """numba alone would look at the file of the function, and run the old code of what it calls."""
    import numba

    from bcls_core import compiled

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "kernel_of_a_test.py").write_text("def twice(number):\n    return 2 * number\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    twice = __import__("kernel_of_a_test").twice

    def hits() -> int:
        function = compiled.compiled(twice)
        assert function(4) == 8
        return sum(function.stats.cache_hits.values())

    assert hits() == 0
    assert hits() == 1
    monkeypatch.setattr(compiled, "_sources_digest", lambda: "another")
    assert hits() == 0
    assert hits() == 1
