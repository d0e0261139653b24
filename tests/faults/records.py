"""The command line of a kill campaign, and the file of what it found."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

QUIET = {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}
"""Environment of the commands that are killed."""

LONGEST = 900.0
"""Seconds of one command."""

RESULTS = Path(__file__).parent / "results"

Campaign = Callable[[int, int, Path], Iterator[dict[str, Any]]]
"""Kills, seed, and a folder to work in; yields a record of each run as it ends, with the claims that failed in it."""


def run_campaign(
    name: str,
    about: str | None,
    arguments: Sequence[str],
    campaign: Campaign,
    victims: Sequence[str],
    facts: Mapping[str, Any],
) -> int:
    """Runs a campaign of this name as its command line says, and writes its records after every run.

    Args:
        about: the help text.
        victims: kinds of victims, which the file counts.
        facts: what else the file says of the campaign.
    Returns:
        The exit code: 1 where a claim failed.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--result", type=Path, default=RESULTS / f"{name}.json")
    given = parser.parse_args(arguments)
    given.result.parent.mkdir(exist_ok=True)
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bcls-kills-") as home:
        for run in campaign(given.kills, given.seed, Path(home)):
            runs.append(run)
            sys.stderr.write(f"run {len(runs)}: {json.dumps(run)}\n")
            struck = [kill["kind"] for run in runs for kill in run["kills"] if "missed" not in kill]
            result = {
                "command": f"python -m tests.faults.{name} --kills {given.kills} --seed {given.seed}",
                **facts,
                "kills": {victim: struck.count(victim) for victim in victims},
                "failed": sorted({claim for run in runs for claim in run["failed"]}),
                "runs": runs,
            }
            given.result.write_text(json.dumps(result, indent=1) + "\n")
    failed = {claim for run in runs for claim in run["failed"]}
    for claim in sorted(failed):
        sys.stderr.write(f"does not hold: {claim}\n")
    return 1 if failed else 0
