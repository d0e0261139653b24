"""The spread of a measure's similarities as one small SVG; made without a display."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from bcls_core.similarity.measure import FloatArray

_BINS = 60
_COLOURS = ("#0072b2", "#e69f00", "#009e73")  # told apart by colour-blind people, too


def spread_figure(samples: Mapping[str, FloatArray], marks: Mapping[str, float]) -> str:
    """Histograms of some samples over one axis, with vertical marks, as a data URI; the same bytes for the same input.

    Args:
        samples: name in the legend -> similarities; empty ones are left out.
        marks: name -> similarity to be marked.
    """
    there = {name: values for name, values in samples.items() if len(values)}
    figure = Figure(figsize=(8.2, 2.7), layout="constrained")
    axes = figure.subplots()
    if there:
        low = min(float(values.min()) for values in there.values())
        high = max(max(float(values.max()) for values in there.values()), *marks.values(), low + 1e-3)
        edges = np.linspace(low, high, _BINS + 1)
        for (name, values), colour in zip(there.items(), _COLOURS, strict=False):
            shares = 100 * np.histogram(values, edges)[0] / len(values)
            axes.stairs(shares, edges, fill=True, alpha=0.25, color=colour)
            axes.stairs(shares, edges, color=colour, linewidth=1.4, label=name)
    for (name, value), style in zip(marks.items(), ("--", ":"), strict=False):
        axes.axvline(value, color="0.25", linestyle=style, linewidth=1.2, label=f"{name}: {value:.3f}")
    axes.set_xlabel("similarity")
    axes.set_ylabel("share, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)
    if there or marks:
        figure.legend(loc="outside right center", fontsize=8, frameon=False)
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "bcls"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
