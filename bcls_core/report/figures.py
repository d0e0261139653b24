"""Figures of trainings and label sets; made without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bcls_core.training.history import History

_RECALLS = ("val/t2i/r1", "val/t2i/r10", "val/i2t/r1", "val/i2t/r10")


def training_curves(history: History) -> Figure:
    """Loss terms, recalls and rsum over the epochs; the kept epoch is marked."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    losses, recalls, rsum = figure.subplots(1, 3)
    epochs = range(len(history.epochs))
    terms = sorted({name for epoch in history.epochs for name in epoch if name.startswith("train/loss")})
    for name in terms:
        _line(losses, list(epochs)[1:], [epoch[name] for epoch in history.epochs[1:]], name.removeprefix("train/"))
    for name in _RECALLS:
        _line(recalls, epochs, [epoch[name] for epoch in history.epochs], name.removeprefix("val/"))
    _line(rsum, epochs, [epoch["val/rsum"] for epoch in history.epochs], "rsum")
    rsum.axvline(history.best_epoch, color="0.7", linestyle=":", label=f"kept: epoch {history.best_epoch}")
    for axes, title in ((losses, "loss"), (recalls, "recall on val, %"), (rsum, "rsum on val")):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch")
        axes.legend(fontsize=7, frameon=False)
    return figure


def label_quantiles(gaps: Mapping[str, Sequence[float]]) -> Figure:
    """Per measure how far apart two captions' labels are for one image: the percentiles a gap like `p60` reads.

    Args:
        gaps: measure -> label differences at the percentiles 0 to 100, in label units.
    """
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, values in gaps.items():
        _line(axes, range(len(values)), values, name)
    axes.set_xlabel("percentile of |label difference|")
    axes.set_ylabel("label difference")
    axes.legend(fontsize=8, frameon=False)
    return figure


def _line(axes: Axes, x: Sequence[int], y: Sequence[float], label: str) -> None:
    axes.plot(list(x), list(y), marker=".", linewidth=1.2, label=label)
