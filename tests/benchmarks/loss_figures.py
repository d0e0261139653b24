"""The curves of `loss_curves` as SVG files that are the same bytes whenever they are drawn."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from tests.benchmarks.loss_curves import LABELS, MOVES, PAIRS, SCORES

_METADATA = ("Creator", "Date", "Format", "Type")
Curves = dict[str, tuple[list[float], list[float]]]

_STYLE: dict[str, dict[str, Any]] = {
    "relevant": {"color": "#0072b2", "linestyle": "-", "linewidth": 1.6},
    "irrelevant": {"color": "#d55e00", "linestyle": (0, (4, 1.6)), "linewidth": 1.6},
}
_INK, _FAINT = "#333333", "#dddddd"
_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "bcls",
    "svg.fonttype": "none",  # text stays text; as paths it would be most of the file
    "path.simplify_threshold": 0.2,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "xtick.bottom": False,
    "ytick.left": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 8,
}


def draw(path: Path, panels: dict[str, Curves], units: dict[str, str]) -> None:
    """Value and gradient of each panel: side by side for one, value above gradient for several.

    Args:
        path: of the SVG file.
        panels: by title, for each pair its values and gradients at `MOVES`.
        units: by title, of the value.
    """
    alone, same_unit = len(panels) == 1, len(set(units.values())) == 1
    with mpl.rc_context(_SETTINGS):
        layout = ConstrainedLayoutEngine(wspace=0.06)  # closer, one panel's 1 meets the next one's −0.5
        figure = Figure(figsize=(6.4, 2.4) if alone else (8.0, 3.7), layout=layout)
        if alone:
            axes = figure.subplots(1, 2, squeeze=False).T
        else:
            axes = figure.subplots(2, len(panels), sharex=True, sharey="row" if same_unit else False)
        for place, (title, curves) in enumerate(panels.items()):
            value, gradient = axes[:, place]
            for which, axis in enumerate((value, gradient)):
                _plot(axis, curves, which)
            value.set_title(title, loc="left" if alone else "center")
            if place == 0 or not same_unit:
                value.set_ylabel(f"loss ({units[title]})")
            if place == 0:
                gradient.set_ylabel("gradient\n(per unit of score)")
            for axis in (value, gradient) if alone else (gradient,):
                axis.set_xlabel("score of the pair (cosine)")
        figure.align_ylabels()
        handles, names = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=3, frameon=False, handlelength=2.4)
        text = StringIO()
        figure.savefig(text, format="svg", facecolor="white", metadata=dict.fromkeys(_METADATA))
    path.write_text(_shortened(text.getvalue()), encoding="utf-8")


def _plot(axis: Axes, curves: Curves, which: int) -> None:
    for name, lines in curves.items():
        row, column = PAIRS[name]
        label = f"{name} pair, R = {LABELS[row][column]}"
        axis.plot(MOVES, lines[which], label=label, **_STYLE[name])
        here = SCORES[row][column]
        axis.plot([here], [lines[which][MOVES.index(here)]], "o", color=_STYLE[name]["color"], markersize=3.5)
    match = SCORES[0][0]
    axis.axvline(match, color="#888888", linestyle=":", linewidth=1.0, zorder=1, label=f"score of the match, {match}")
    axis.set_xlim(MOVES[0], MOVES[-1])
    axis.set_xticks([-0.5, 0, 0.5, 1], ["−0.5", "0", "0.5", "1"])
    axis.locator_params(axis="y", nbins=5)
    axis.ticklabel_format(axis="y", useOffset=False)


def _shortened(svg: str) -> str:
    """Coordinates to a hundredth of a point, one font for all, no rotations by nothing, names of groups, or blanks."""
    svg = re.sub(r"(\d\.\d\d)\d+", r"\1", svg)
    families = re.findall(r"font-family: ([^;]*); ", svg)
    svg = svg.replace(f"font-family: {families[0]}; ", "")
    svg = svg.replace("</style>", f"text{{font-family: {families[0]}}}</style>", 1)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"', "", svg)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r"\s*\n\s*(?=[MLz\"])", " ", svg)
    return re.sub(r"\n +", "\n", svg)
