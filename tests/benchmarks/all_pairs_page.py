"""What `bcls_core/similarity/README.md` says in numbers, from the cost model and what `all_pairs` measured.

    python -m tests.benchmarks.all_pairs_page    # writes the page's tables and its figure anew

A table stands on the page between comments that name it; everything else there is written by hand.
"""

from __future__ import annotations

import re
import textwrap
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from bcls_core import similarity
from bcls_core.similarity import cost
from bcls_core.similarity.cost import AllPairs, InvertedFile
from bcls_core.similarity.ivf import PROBES
from tests.benchmarks import record

README = Path(similarity.__file__).parent / "README.md"
FIGURE = README.parent / "figures" / "seconds.svg"

SIZES = (155_070, 10**6, 10**7, 10**8, 10**9)
CORES = 64
QUERIES = 100_000  # of a shard
NAMES = {"ours": "`top_k`", "faiss": "faiss, `IndexFlatIP`", "semantic_search": "sentence-transformers"}
DRAWN = (8e3, 2e7)  # captions

_METADATA = ("Creator", "Date", "Format", "Type")
_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "bcls",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "font.size": 8,
    "axes.axisbelow": True,
    "axes.edgecolor": "#999999",
    "axes.grid": True,
    "axes.grid.which": "major",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
}
_COLOURS = {"ours": "#0072b2", "faiss": "#d55e00", "semantic_search": "#009e73"}
_MARKS = {"ours": "o", "faiss": "s", "semantic_search": "^"}


def blocks(found: dict[str, Any]) -> dict[str, str]:
    """Markdown by the name that the page has for it."""
    made = {"measured": measured(found), "costs": costs(found), "reach": reach(found), "beyond": beyond(found)}
    return {name: "\n".join(map(_wrapped, block.splitlines())) for name, block in made.items()}


def one_process(found: dict[str, Any]) -> float:
    """FLOP/s of all pairs in one process, as measured with all captions."""
    return float(found["all"]["GFLOP/s"]["ours"]) * 1e9


def of_job(found: dict[str, Any]) -> float:
    """FLOP/s of a shard of a job on `CORES` cores, extrapolated."""
    return cost.rate_of_cores(float(found["shard"]["GFLOP/s"]) * 1e9, found["threads"], CORES)


def measured(found: dict[str, Any]) -> str:
    """Seconds, rates and memory of the peers, and where their neighbours differ."""
    lines = [
        f"| captions | search | seconds | `top_k` is faster by | GFLOP/s | of `torch.mm` in fp32 | rows, "
        f"{found['k']} neighbours and working memory |",
        "|--:|---|--:|--:|--:|--:|--:|",
    ]
    for part in ("sample", "all"):
        race, memory = found[part], found["memory"][part]
        for name, shown in NAMES.items():
            faster = race["times faster"].get(name)
            held = f"{sum(memory[name].values()):,.0f} MiB" if name in memory else ""
            cells = [
                f"{race['captions']:,}",
                shown,
                _short(race["seconds"][name]),
                f"{faster:.3g}x" if faster else "",
                f"{race['GFLOP/s'][name]:.0f}",
                f"{race['share of torch.mm'][name]:.0%}",
                held,
            ]
            lines.append(f"| {' | '.join(cells)} |")
    kept = ", ".join(f"`{name}={value}`" for name, value in found["settings"]["faiss"].items())
    chunks = ", ".join(f"`{name}={value}`" for name, value in found["settings"]["semantic_search"].items())
    lines += [
        "",
        f"{found['threads']} threads ({found['machine']}); {found['dimension']} dimensions; medians of "
        f"{_times(found['sample']['rounds'])} with {found['sample']['captions']:,} captions, of "
        f"{_times(found['all']['rounds'])} with {found['all']['captions']:,}. faiss {found['versions']['faiss']} with "
        f"{kept}, sentence-transformers {found['versions']['sentence-transformers']} with {chunks}: the fastest of a "
        f"sweep with {found['swept']['captions']:,} captions.",
        "",
        *(_differences(found["all"], name) for name in ("faiss", "semantic_search")),
    ]
    return "\n".join(lines)


def _differences(race: dict[str, Any], name: str) -> str:
    compared = race["compared"][name]
    return (
        f"- {NAMES[name]}: other neighbours for {compared['rows']:,} of {race['captions']:,} captions, "
        f"{compared['ids']:,} in all, of which {compared['ties']:,} tie with the last of ours; place by place, their "
        f"exact scores are at most {compared['largest']:.1e} below ours, where fp32 may take {compared['allowed']:.1e}."
    )


def costs(found: dict[str, Any]) -> str:
    """What all pairs cost, from as many captions as Flickr30k has to a billion."""
    lines = [
        "| captions | FLOP, each pair once | memory, one process | memory, a job's worker | neighbours, uncompressed | "
        f"{found['threads']} cores | {CORES} cores, extrapolated | a GPU, assumed |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for rows in SIZES:
        pairs = AllPairs(rows, found["dimension"], found["k"])
        whole = pairs.flop(symmetric=False)
        cells = [
            f"{rows:,}",
            _power(pairs.flop()),
            _size(pairs.memory().total),
            _size(pairs.memory(min(QUERIES, rows)).total),
            _size(pairs.output_bytes()),
            _time(cost.seconds(pairs.flop(), one_process(found))),
            _time(cost.seconds(whole, of_job(found))),
            _time(cost.seconds(whole, cost.ASSUMED_GPU_RATE)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    table, largest = found["neighbours table"], found["memory"]["all"]
    expected = AllPairs(largest["captions"], found["dimension"], found["k"])
    of_table = AllPairs(table["captions"], found["dimension"], found["k"])
    neighbours = table["captions"] * found["k"]
    lines += [
        "",
        f"- {found['threads']} cores: one process, each pair once, at the {one_process(found) / 1e9:.0f} GFLOP/s that "
        f"were measured with {found['all']['captions']:,} captions.",
        f"- {CORES} cores: a job, whole rows, at the {found['shard']['GFLOP/s']:.0f} GFLOP/s that a shard of "
        f"{found['shard']['queries']:,} captions reached on {found['threads']} cores; {CORES} cores are an "
        "extrapolation in proportion.",
        f"- A GPU: whole rows at {cost.ASSUMED_GPU_RATE / 1e12:.0f} TFLOP/s, which is assumed. `top_k` runs on CPUs; "
        "nothing here was measured on a GPU.",
        f"- Memory: of {largest['captions']:,} captions the model says {_mebibytes(expected.memory().total)}, measured "
        f"were {sum(largest['ours'].values()):,.0f} MiB. A worker's shard has {QUERIES:,} captions here.",
        f"- Neighbours: as stored, compressed, those of {table['captions']:,} captions took "
        f"{table['bytes'] / neighbours:.1f} bytes a neighbour; uncompressed they have "
        f"{of_table.output_bytes() / neighbours:.1f}.",
    ]
    return "\n".join(lines)


def reach(found: dict[str, Any]) -> str:
    """How many captions are compared exactly in an hour, a day and 30 days."""
    lines = [
        f"| within | {found['threads']} cores | {CORES} cores, extrapolated | a GPU, assumed |",
        "|---|--:|--:|--:|",
    ]
    for name, time in (("an hour", cost.HOUR), ("a day", cost.DAY), ("30 days", 30 * cost.DAY)):
        counts = (
            cost.most_rows(time, one_process(found), found["dimension"], symmetric=True),
            cost.most_rows(time, of_job(found), found["dimension"]),
            cost.most_rows(time, cost.ASSUMED_GPU_RATE, found["dimension"]),
        )
        lines.append(f"| {name} | {' | '.join(_count(count) for count in counts)} |")
    return "\n".join(lines)


def beyond(found: dict[str, Any]) -> str:
    """What an inverted file costs instead."""
    lines = [
        f"| captions | clusters | FLOP, exact job | FLOP, {PROBES} probes | less by | {CORES} cores, extrapolated |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for rows in SIZES[1:]:
        pairs = AllPairs(rows, found["dimension"], found["k"])
        filed = InvertedFile.of(pairs, PROBES)
        exact = pairs.flop(symmetric=False)
        lines.append(
            f"| {rows:,} | {filed.clusters:,} | {_power(exact)} | {_power(filed.flop())} | "
            f"{_short(exact / filed.flop())}x | {_time(cost.seconds(filed.flop(), of_job(found)))} |"
        )
    return "\n".join(lines)


def draw(path: Path, found: dict[str, Any]) -> None:
    """Seconds by number of captions: the model's line and what was measured."""
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.subplots()
        points = {int(count): value for count, value in found["points"].items()}
        line = [AllPairs(round(rows), found["dimension"], found["k"]).flop() / one_process(found) for rows in DRAWN]
        at = f"{one_process(found) / 1e9:.0f} GFLOP/s"
        axes.plot(DRAWN, line, color=_COLOURS["ours"], linewidth=1.2, label=f"model: each pair once, {at}")
        axes.plot([*points], [*points.values()], _MARKS["ours"], color=_COLOURS["ours"], label="top_k, measured")
        for name, shown in (("faiss", "faiss, measured"), ("semantic_search", "sentence-transformers, measured")):
            races = {found[part]["captions"]: found[part]["seconds"][name] for part in ("sample", "all")}
            axes.plot([*races], [*races.values()], _MARKS[name], color=_COLOURS[name], markersize=4.5, label=shown)
        for name, time in (("a minute", 60.0), ("an hour", cost.HOUR), ("a day", cost.DAY)):
            axes.axhline(time, color="#999999", linewidth=0.7, linestyle=":")
            axes.annotate(name, (DRAWN[0], time), xytext=(2, 2), textcoords="offset points", color="#666666")
        axes.set(xscale="log", yscale="log", xlim=DRAWN, xlabel="captions", ylabel="seconds")
        axes.minorticks_off()
        axes.legend(frameon=False, loc="lower right")
        text = StringIO()
        figure.savefig(text, format="svg", facecolor="white", metadata=dict.fromkeys(_METADATA))
    path.parent.mkdir(exist_ok=True)
    path.write_text(re.sub(r"(\d\.\d\d)\d+", r"\1", re.sub(r" +$", "", text.getvalue(), flags=re.MULTILINE)))


def rewritten(page: str, found: dict[str, Any]) -> str:
    """The page with every table as it has to be.

    Raises:
        LookupError: a table has no place on the page.
    """
    for name, block in blocks(found).items():
        place = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        if not place.search(page):
            raise LookupError(name)
        page = place.sub(lambda match, block=block: f"{match[1]}\n{block}\n\n{match[2]}", page)
    return page


def _wrapped(line: str) -> str:
    """A line of text as several; a table's rows cannot be."""
    if line.startswith("|"):
        return line
    indent = "  " if line.startswith("- ") else ""
    return textwrap.fill(line, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _times(rounds: int) -> str:
    return "one round" if rounds == 1 else f"{rounds} rounds"


def _short(value: float) -> str:
    """Three digits that count."""
    if value >= 1000:
        digits = len(str(int(value))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.3g}" if value >= 0.001 else f"{value:.1g}"


def _count(value: int) -> str:
    """Two digits that count, in millions or billions where there are some."""
    rounded = round(value, 2 - len(str(value)))
    for size, name in ((10**9, "billion"), (10**6, "million")):
        if rounded >= size:
            return f"{rounded / size:g} {name}"
    return f"{rounded:,}"


def _time(seconds: float) -> str:
    """Seconds, minutes, or hours from two of them on."""
    if seconds < 120:
        return f"{_short(seconds)} s"
    return f"{_short(seconds / 60)} min" if seconds < 2 * cost.HOUR else f"{_short(seconds / cost.HOUR)} h"


def _power(value: float) -> str:
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits}·10{str(int(exponent)).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def _size(value: float) -> str:
    for unit in ("MB", "GB", "TB"):
        value /= 1e6 if unit == "MB" else 1e3
        if value < 999.5:
            break
    return f"{_short(value)} {unit}"


def _mebibytes(value: int) -> str:
    return f"{value / 2**20:,.0f} MiB"


def main() -> None:
    found = record.read("all_pairs")
    README.write_text(rewritten(README.read_text(encoding="utf-8"), found), encoding="utf-8")
    draw(FIGURE, found)


if __name__ == "__main__":
    main()
