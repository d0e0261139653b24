"""How often intervals of 95 % hold the truth, on values made up so that the truth is known.

    python -m tests.benchmarks.coverage             # writes tests/benchmarks/results/coverage.json
    python -m tests.benchmarks.coverage --tables    # what that file says, as Markdown

A query's value is `seed + image + query + image for this model + query for this seed`, all normal and independent, the
variances of the last four adding up to 1, of which the first two are what models share; or, for a rate, whether that
exceeds a threshold. Images have 1 to 7 captions, each a query. `ratio` is the standard deviation of seeds over what
images contribute to the standard error, about. The truth is the mean over all images and, from two seeds on, over all
seeds; of a difference it is 0 then. Beside the project's intervals: seeds drawn with replacement from the seeds at hand
(`nested`; for one seed the plain percentile interval), and captions drawn in place of images (`captions`).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bcls_core.metrics.replicates import Mean, replicates
from bcls_core.metrics.resamples import ImageResamples
from bcls_core.metrics.significance import Difference, Interval, differences, intervals
from tests.benchmarks import record

Floats = NDArray[np.float64]
IMAGE, QUERY, MODEL_IMAGE, SEED_QUERY = 0.35, 0.25, 0.1, 0.3
RARE = (0.02, 0.98)
SIMULATIONS, TOGETHER, RESAMPLES = 1000, 100, 1000


@dataclass(frozen=True)
class Case:
    """One line of the table; `rate` None for the values themselves."""

    models: int
    seeds: int
    images: int
    rate: float | None
    ratio: float


def cases() -> list[Case]:
    rates = (0.1, 0.5, 0.9, None)
    single = [Case(m, 1, n, rate, 0.3) for m, n, rate in product((1, 2), (100, 500), rates)]
    rare = [Case(m, 1, n, rate, 0.3) for m, n, rate in product((1, 2), (50, 100, 200), RARE)]
    several = [
        Case(m, s, n, rate, ratio)
        for m, s, n, rate, ratio in product((1, 2), (3, 5), (100, 500), rates, (0.0, 1.0, 3.0))
    ]
    return single + rare + several


def simulate(case: Case, generator: np.random.Generator) -> tuple[NDArray[np.int64], list[Floats], Floats]:
    """Images of the queries; for each model (simulations, seeds, queries); and the truth (simulations,)."""
    image = np.repeat(np.arange(case.images), generator.integers(1, 8, case.images))
    shape = TOGETHER, case.seeds, len(image)
    shared = generator.normal(0, IMAGE**0.5, (TOGETHER, case.images))[:, image]
    shared += generator.normal(0, QUERY**0.5, (TOGETHER, len(image)))
    threshold = 0.0 if case.rate is None else stats.norm.ppf(case.rate)
    models, truths = [], []
    for _ in range(case.models):
        of_seed = generator.normal(0, case.ratio * ((IMAGE + QUERY) / case.images) ** 0.5, (TOGETHER, case.seeds))
        own = generator.normal(0, MODEL_IMAGE**0.5, (TOGETHER, case.images))[:, image]
        values = threshold + of_seed[:, :, None] + (shared + own)[:, None] + generator.normal(0, SEED_QUERY**0.5, shape)
        truth = of_seed[:, 0] if case.seeds == 1 else np.zeros(TOGETHER)
        if case.rate is not None:
            values = (values > 0).astype(np.float64)
            spread = 1.0 if case.seeds == 1 else (1 + case.ratio**2 * (IMAGE + QUERY) / case.images) ** 0.5
            truth = stats.norm.cdf((threshold + truth) / spread)
        models.append(values)
        truths.append(truth)
    return image, models, truths[0] if case.models == 1 else truths[1] - truths[0]


def coverage(case: Case, seed: int) -> dict[str, Any]:
    """Percent of the intervals that hold the truth, by method; and how often the project's is too low or too high."""
    generator = np.random.default_rng(seed)
    below, above = 0, 0
    held: dict[str, int] = {}
    for start in range(0, SIMULATIONS, TOGETHER):
        image, models, truth = simulate(case, generator)
        draws = ImageResamples(case.images, RESAMPLES, seed=start)
        statistics = [[[Mean(row, image) for row in seeds] for seeds in values] for values in models]
        found: dict[str, Floats] = {
            "project": bounds(statistics, draws),
            "nested": nested(statistics, draws, generator),
        }
        if case.seeds == 1:
            alone = [[[Mean(row, np.arange(len(row))) for row in seeds] for seeds in values] for values in models]
            found["captions"] = bounds(alone, ImageResamples(len(image), RESAMPLES, seed=start))
        below += int((found["project"][:, 1] < truth).sum())
        above += int((found["project"][:, 0] > truth).sum())
        for name, (low, high) in ((name, pair.T) for name, pair in found.items()):
            held[name] = held.get(name, 0) + int(((low <= truth) & (truth <= high)).sum())
    result: dict[str, Any] = {"what": "one model" if case.models == 1 else "difference", "seeds": case.seeds}
    result |= {"images": case.images, "rate": case.rate, "ratio": case.ratio}
    counted = held | {"too low": below, "too high": above}
    return result | {name: round(100 * count / SIMULATIONS, 1) for name, count in counted.items()}


def bounds(models: list[list[list[Mean]]], draws: ImageResamples) -> Floats:
    """(simulations, 2) low and high of the project's intervals."""
    found: dict[str, Interval] | dict[str, Difference]
    if len(models) == 1:
        found = intervals({str(index): seeds for index, seeds in enumerate(models[0])}, resamples=draws)
    else:
        pairs = zip(*models, strict=True)
        found = differences({str(index): pair for index, pair in enumerate(pairs)}, resamples=draws)
    return np.array([(each.low, each.high) for each in found.values()])


def nested(models: list[list[list[Mean]]], draws: ImageResamples, generator: np.random.Generator) -> Floats:
    """(simulations, 2) with seeds drawn from the seeds at hand, anew for every draw of images."""
    total = 0.0
    for sign, values in zip((1.0,) if len(models) == 1 else (-1.0, 1.0), models, strict=True):
        seeds = len(values[0])
        found = replicates([each for of_seeds in values for each in of_seeds], draws)
        times = generator.multinomial(seeds, np.full(seeds, 1 / seeds), draws.resamples) / seeds
        total = total + sign * np.einsum("isr,rs->ir", found.reshape(len(values), seeds, -1), times)
    found_range: Floats = np.quantile(total, [0.025, 0.975], axis=1).T
    return found_range


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown of the results."""
    head = ["what", "seeds", "images", "rate", "ratio", "project", "nested", "captions"]
    lines = [head, ["--:"] * len(head)]
    lines += [["" if row.get(name) is None else str(row[name]) for name in head] for row in rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def summary(rows: list[dict[str, Any]]) -> str:
    """Markdown of the lowest and highest case for each number of seeds, rare rates apart."""
    lines = [
        "| intervals of | seeds | our intervals | seeds drawn from themselves | captions drawn |",
        "|---|---|---|---|---|",
    ]
    for what, seeds, rare in product(("one model", "difference"), (1, 3, 5), (False, True)):
        held = [row for row in rows if (row["what"], row["seeds"], row["rate"] in RARE) == (what, seeds, rare)]
        if held:
            named = f"{what}, rates of 2 and 98 %" if rare else what
            cells = [_range_of(held, name) for name in ("project", "nested", "captions")]
            lines.append("| " + " | ".join([named, str(seeds), *cells]) + " |")
    return "\n".join(lines)


def _range_of(rows: list[dict[str, Any]], name: str) -> str:
    found = [row[name] for row in rows if row.get(name) is not None]
    return f"{min(found)} to {max(found)} %" if found else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true")
    if parser.parse_args().tables:
        sys.stdout.write(table(record.read("coverage")["cases"]) + "\n")
        return
    rows = [coverage(case, seed) for seed, case in enumerate(cases())]
    figures = {"cases": rows, "simulations": SIMULATIONS, "resamples": RESAMPLES}
    record.write("coverage", "python -m tests.benchmarks.coverage", figures)


if __name__ == "__main__":
    main()
