"""Times of peers side by side, and the memory one call needs."""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

Call = Callable[[], object]


def interleaved(peers: Mapping[str, Call], rounds: int = 5, least_seconds: float = 0.05) -> dict[str, float]:
    """Median seconds of a call over rounds in which the peers take turns, so that a busy machine slows all alike.

    Args:
        least_seconds: a measurement repeats a short call until it took so long.
    """
    repeats = {}
    for name, call in peers.items():
        call()  # compiled, allocated, warm
        started = time.perf_counter()
        call()
        repeats[name] = max(1, round(least_seconds / max(time.perf_counter() - started, 1e-6)))
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, call in peers.items():
            started = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            seconds[name].append((time.perf_counter() - started) / repeats[name])
    return {name: statistics.median(times) for name, times in seconds.items()}


_KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}


def keep_freed_memory(module: str) -> None:
    """Start this program again, as `python -m module`, with an allocator that keeps what is freed; glibc.

    Large blocks otherwise go back to the kernel, which clears their pages anew at every call.
    """
    if any(os.environ.get(name) != value for name, value in _KEPT.items()):
        done = subprocess.run([sys.executable, "-m", module, *sys.argv[1:]], env=os.environ | _KEPT)
        raise SystemExit(done.returncode)


def without_kept_memory() -> dict[str, str]:
    """The environment without what `keep_freed_memory` set."""
    return {name: value for name, value in os.environ.items() if name not in _KEPT}


def peak_bytes(call: Call) -> int:
    """Bytes by which a call raises this process's resident memory at its highest; Linux."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the mark of the highest begins anew
    before = _resident("VmRSS")
    call()
    return max(_resident("VmHWM") - before, 0)


def highest_resident_bytes() -> int:
    """The most memory this process ever had resident, libraries included."""
    return _resident("VmHWM")


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)
