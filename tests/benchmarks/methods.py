"""The methods side by side: `python -m tests.benchmarks.methods [ROOT]`.

Runs `bcls bench methods` and writes what it says to `tests/benchmarks/results/methods.json`, and one JSON line per
training to `methods.jsonl` beside it. With a ROOT, what was trained there already is not trained again.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile

from tests.benchmarks import record
from tests.benchmarks.commands import bcls, rounded

_KEPT = r"rsum|(i2t|t2i|c2c)/r\d+|(label|human|sts)/.*/(kendall|spearman)"


def main(root: str) -> None:
    found = rounded(bcls("bench", root, "methods"))
    runs = found.pop("runs")
    for part in (
        *(of for method in found["methods"].values() for of in method.values()),
        *(run["metrics"] for run in runs),
    ):
        for name in [name for name in part if not re.fullmatch(_KEPT, name)]:
            del part[name]
    path = record.write("methods", "bcls bench methods", found)
    path.with_suffix(".jsonl").write_text("".join(json.dumps(run, sort_keys=True) + "\n" for run in runs))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as made:
            main(made)
