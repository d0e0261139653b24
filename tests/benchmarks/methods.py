"""The methods side by side: `python -m tests.benchmarks.methods [--seeds N] [--at-once N] [ROOT]`.

Runs `bcls bench methods` and writes what it says to `tests/benchmarks/results/methods.json`, with the minutes that its
first seed took from nothing, and one JSON line per training to `methods.jsonl` beside it. With a ROOT, what was trained
there already is not trained again, and the minutes are left out.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from pathlib import Path

from tests.benchmarks import record
from tests.benchmarks.commands import bcls, rounded

_KEPT = r"rsum|(i2t|t2i|c2c)/r\d+|(label|human|sts)/.*/(kendall|spearman)"


def main(root: str, seeds: int, at_once: int) -> None:
    from_nothing, started = not any(Path(root).glob("*")), time.monotonic()
    arguments = ("bench", root, "methods", "--at-once", str(at_once))
    bcls(*arguments, "--quick")
    minutes = (time.monotonic() - started) / 60
    found = rounded(bcls(*arguments, "--seeds", str(seeds)))
    if from_nothing:
        found["minutes_of_first_seed"] = round(minutes, 1)
    runs = found.pop("runs")
    parts = [part for method in found["methods"].values() for part in method.values()]
    for part in [*parts, *(run["metrics"] for run in runs)]:
        for name in [name for name in part if not re.fullmatch(_KEPT, name)]:
            del part[name]
    path = record.write("methods", f"bcls bench methods --seeds {seeds} --at-once {at_once}", found)
    path.with_suffix(".jsonl").write_text("".join(json.dumps(run, sort_keys=True) + "\n" for run in runs))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("root", nargs="?")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=2)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        main(chosen.root or made, chosen.seeds, chosen.at_once)
