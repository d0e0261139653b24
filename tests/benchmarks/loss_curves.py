"""What each loss does as one score of the worked batch moves, for the figures of `bcls_core/losses/README.md`.

    python -m tests.benchmarks.loss_curves   # writes results/loss_curves.json and bcls_core/losses/figures/*.svg

Two pairs are followed, one at a time: image 0 with caption 1, no match but relevant to it (R = 0.8), and image 0 with
caption 3, which has little to do with it (R = 0.1). A binary loss knows no difference between them, a graded one does.
`tests/bcls_core/losses/test_readme.py` computes some of the points anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bcls_core.losses import (
    cosent_loss,
    info_nce_loss,
    kendall_loss,
    ladder_loss,
    language_guided_margin_loss,
    s_ndcg_loss,
    siglip_loss,
    soft_label_loss,
    soft_spearman_loss,
    triplet_loss,
)
from tests.benchmarks import record

FIGURES = record.REPOSITORY / "bcls_core" / "losses" / "figures"
SCORES = ((0.60, 0.55, 0.10, -0.05), (0.30, 0.50, 0.45, 0.00), (0.05, 0.40, 0.35, 0.20), (-0.10, 0.15, 0.25, 0.70))
LABELS = ((1, 0.8, 0.2, 0.1), (0.7, 1, 0.5, 0.15), (0.25, 0.55, 1, 0.3), (0.1, 0.2, 0.35, 1))
PAIRS = {"relevant": (0, 1), "irrelevant": (0, 3)}
MOVES = tuple(step / 100 for step in range(-50, 101))

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Panel:
    """One loss, or one variant of it.

    Attributes:
        unit: what its value is measured in.
        loss: of (images, captions) scores and labels.
    """

    unit: str
    loss: Loss


def binary(loss: Callable[..., Tensor], unit: str, **settings: float | str) -> Panel:
    """A loss that reads no labels."""
    return Panel(unit, lambda scores, _: loss(scores, **settings))


def graded(loss: Callable[..., Tensor], unit: str, **settings: float | str | bool) -> Panel:
    """A loss that reads labels."""
    return Panel(unit, partial(loss, **settings))


SCORE, NATS = "units of score", "nats"

CURVES: dict[str, dict[str, Panel]] = {
    "triplet": {
        "sum": binary(triplet_loss, SCORE, mining="sum"),
        "hardest": binary(triplet_loss, SCORE, mining="hardest"),
        "selective, eps 0.06": binary(triplet_loss, SCORE, mining="selective", eps=0.06),
    },
    "triplet-soft": {
        f"{variant}, tau 0.1": binary(triplet_loss, SCORE, mining="soft", tau=0.1, variant=variant)
        for variant in ("smooth", "logsumexp", "softmax")
    },
    "kendall": {
        "hinge": graded(kendall_loss, SCORE, surrogate="hinge"),
        "softplus": graded(kendall_loss, SCORE, surrogate="softplus"),
        "sigmoid": graded(kendall_loss, "part of the pairs", surrogate="sigmoid"),
        "tanh": graded(kendall_loss, "1 − gamma", surrogate="tanh"),
    },
    "kendall-windows": {
        "exact": graded(kendall_loss, SCORE),
        "dead-zone, window 2": graded(kendall_loss, SCORE, sampling="dead-zone", window=2),
        "dead-zone, hard": graded(kendall_loss, SCORE, sampling="dead-zone", window=2, hard=True),
        "local, window 3, hard": graded(kendall_loss, SCORE, sampling="local", window=3, stride=1, hard=True),
    },
    "info-nce": {"tau 0.05": binary(info_nce_loss, NATS, tau=0.05)},
    "siglip": {"scale 10, bias −10": binary(siglip_loss, NATS, scale=10.0, bias=-10.0)},
    "soft-label": {"student tau 0.45, teacher tau 1": graded(soft_label_loss, NATS, student_tau=0.45)},
    "language-guided-margin": {
        "tau 0.02, margin 0.2, threshold p70": graded(language_guided_margin_loss, NATS, tau=0.02),
    },
    "ladder": {"margins 0.2 and 0.01, threshold 0.63, weight 0.25": graded(ladder_loss, SCORE)},
    "s-ndcg": {f"tau {tau:g}": graded(s_ndcg_loss, "1 − NDCG", tau=tau) for tau in (0.01, 0.05)},
    "soft-spearman": {"tau 0.05": graded(soft_spearman_loss, "1 − correlation", tau=0.05)},
    "cosent": {"scale 20": graded(cosent_loss, NATS, scale=20.0)},
}
"""Per figure its panels, by title."""


def curve(loss: Loss, pair: tuple[int, int], moves: Iterable[float] = MOVES) -> tuple[list[float], list[float]]:
    """Value of the loss, and its gradient with respect to the score of one pair, wherever that score is moved."""
    labels = torch.tensor(LABELS, dtype=torch.float64)
    values, slopes = [], []
    for score in moves:
        scores = torch.tensor(SCORES, dtype=torch.float64)
        scores[pair] = score
        value = loss(scores.requires_grad_(), labels)
        (gradient,) = torch.autograd.grad(value, scores)
        values.append(value.item())
        slopes.append(gradient[pair].item())
    return values, slopes


def written(numbers: Iterable[float]) -> str:
    """Numbers as one line: six digits, and what cancelled to rounding errors as 0."""
    return " ".join("0" if abs(number) < 1e-9 else f"{number:.6g}" for number in numbers)


def main() -> None:
    from tests.benchmarks.loss_figures import draw

    FIGURES.mkdir(exist_ok=True)
    lines: dict[str, dict[str, dict[str, dict[str, str]]]] = {}
    for name, panels in CURVES.items():
        found = {
            title: {which: curve(panel.loss, pair) for which, pair in PAIRS.items()} for title, panel in panels.items()
        }
        draw(FIGURES / f"{name}.svg", found, {title: panel.unit for title, panel in panels.items()})
        lines[name] = {
            title: {
                which: {"value": written(values), "gradient": written(slopes)}
                for which, (values, slopes) in curves.items()
            }
            for title, curves in found.items()
        }
    figures = {"score": written(MOVES), "pairs": {which: str(pair) for which, pair in PAIRS.items()}, "curves": lines}
    record.write("loss_curves", "python -m tests.benchmarks.loss_curves", figures)


if __name__ == "__main__":
    main()
