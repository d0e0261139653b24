"""The methods side by side: `python -m tests.benchmarks.methods [--seeds N] [ROOT]`.

Runs `bcls bench methods` and writes what it says to `tests/benchmarks/results/methods.json`, and one JSON line per
training to `methods.jsonl` beside it. With a ROOT, what was trained there already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile

from tests.benchmarks import record
from tests.benchmarks.commands import bcls, rounded

_KEPT = r"rsum|(i2t|t2i|c2c)/r\d+|(label|human|sts)/.*/(kendall|spearman)"


def main(root: str, seeds: int) -> None:
    found = rounded(bcls("bench", root, "methods", "--seeds", str(seeds)))
    runs = found.pop("runs")
    parts = [part for method in found["methods"].values() for part in method.values()]
    for part in [*parts, *(run["metrics"] for run in runs)]:
        for name in [name for name in part if not re.fullmatch(_KEPT, name)]:
            del part[name]
    path = record.write("methods", f"bcls bench methods --seeds {seeds}", found)
    path.with_suffix(".jsonl").write_text("".join(json.dumps(run, sort_keys=True) + "\n" for run in runs))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("root", nargs="?")
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        main(chosen.root or made, chosen.seeds)
