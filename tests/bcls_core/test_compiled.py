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
