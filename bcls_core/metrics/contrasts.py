"""Replicates of a recipe's metric, or of a difference of two, put together from those of its trainings.

With S seeds s, estimates t_s and their mean t, the replicate of draw r is

    t + k d^r + T^r sd_s(t_s) / sqrt(S),    d^r = mean_s t_s^r - t,    k^2 = 1 - min(W, sd^2) / (S V),

T^r from Student's t distribution with S - 1 degrees of freedom, V the variance over draws of d^r, and W the mean over
draws of the variance over seeds of t_s^r - t_s. W estimates what one seed's noise on single images adds to the variance
of its t_s: sd_s(t_s) holds that already, so k takes it out of the images' part; but never more of it than sd_s(t_s)
adds, for a few seeds may happen to agree. Drawing S seeds from themselves instead has (S - 1) / S of the variance that
seeds have, and not the tails of t.

A difference subtracts the d^r of the same draws: what both models find hard cancels. The variances W / S of the two add
up, so do those of the seeds, sd^2 / S, and T has the degrees of freedom of Welch (1947).

The d^r of one model's mean are first corrected for skewness, which matters for rates near 0 or 100 %: BCa intervals
(Efron 1987) with bias correction and acceleration both a sixth of the skewness, as they are for a mean to that order,
written as a change of every quantile. Medians and differences are better without, as measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special

from bcls_core.metrics.replicates import Floats

_ROUNDING = 1e-12  # of the larger number: a difference below it is one of rounding, and none


class Side:
    """One model: its estimate, how its replicates deviate from it, and what its seeds tell of their variance.

    Args:
        estimates: (seeds,).
        found: (seeds, resamples) replicates, NaN where a metric is not defined on a draw.
        is_mean: whether `Statistic.is_mean` of all of them.

    Attributes:
        scatter: variance of `estimate` because other seeds could have been trained; 0 for one seed, which stands for
            itself.
        noise: the part of it that comes from single images, and is in `deviation` too.
    """

    def __init__(self, estimates: Floats, found: Floats, is_mean: bool) -> None:
        deviations = found - estimates[:, None]
        self.estimate, self.deviation = float(estimates.mean()), deviations.mean(0)
        self.scatter, self.noise, self.freedom = 0.0, 0.0, len(estimates) - 1
        self.is_mean = is_mean
        if self.freedom:
            defined = deviations[:, ~np.isnan(self.deviation)]
            self.scatter = float(estimates.var(ddof=1)) / len(estimates)
            self.noise = float(defined.var(0, ddof=1).mean()) / len(estimates) if defined.size else 0.0


def contrast(sides: Sequence[Side], levels: Floats) -> tuple[float, Floats]:
    """Of one side, or of the second minus the first: the estimate, and the replicates on draws where they are defined.

    Args:
        sides: one or two.
        levels: (resamples,) of `ImageResamples`, for the quantiles of Student's t.
    """
    signs = (1.0,) if len(sides) == 1 else (-1.0, 1.0)
    estimate = sum(sign * side.estimate for sign, side in zip(signs, sides, strict=True))
    deviation = sum(sign * side.deviation for sign, side in zip(signs, sides, strict=True)) + np.zeros(len(levels))
    defined = ~np.isnan(deviation)
    if not np.isfinite(estimate) or not defined.any():
        return estimate, np.empty(0)
    deviation = deviation[defined]
    if len(sides) == 1 and sides[0].is_mean:
        deviation = _accelerated(deviation)
    variance, noise = float(deviation.var()), sum(min(side.noise, side.scatter) for side in sides)
    if noise:
        deviation = deviation * np.sqrt(max(0.0, 1 - noise / variance) if variance else 0.0)
    scatter = sum(side.scatter for side in sides)
    if scatter:
        # Degrees of freedom of a sum of variances (Welch 1947); one side's own where there is no other.
        freedom = 1 / sum((side.scatter / scatter) ** 2 / side.freedom for side in sides if side.freedom)
        deviation = deviation + np.sqrt(scatter) * special.stdtrit(freedom, levels[defined])
    found = estimate + deviation
    if len(sides) == 2:
        rounding = _ROUNDING * max(abs(side.estimate) for side in sides)
        found[np.abs(found) <= rounding] = 0.0
        estimate = 0.0 if abs(estimate) <= rounding else estimate
    return estimate, found


def _accelerated(deviation: Floats) -> Floats:
    """Quantiles of BCa in place of the quantiles found, each draw keeping its place in the order."""
    centred = deviation - deviation.mean()
    spread = float(np.sqrt((centred**2).mean()))
    if not spread:
        return deviation
    # A mean's is sum l^3 / (sum l^2)^(3/2) over the images' deviations l, so at most 1; a ratio's may pass it.
    acceleration = float(np.clip(((centred / spread) ** 3).mean(), -1, 1)) / 6
    order, places = np.argsort(deviation, kind="stable"), np.arange(len(deviation))
    shifted = acceleration + special.ndtri((places + 0.5) / len(deviation))
    levels = special.ndtr(acceleration + shifted / np.maximum(1 - acceleration * shifted, 1e-9))
    result = np.empty_like(deviation)
    result[order] = np.interp(levels * places[-1], places, deviation[order])
    return result
