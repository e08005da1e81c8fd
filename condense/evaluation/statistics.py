"""Means and their 95 % intervals over independent networks."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from scipy.special import stdtrit


def summary(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean m and half width h of Student's 95 % interval m ± h over n independent values.

    h = t(0.975, n - 1) s / sqrt(n) with the sample standard deviation s (divisor n - 1). One value has no interval:
    h is None. Raises ValueError for no values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("no values to summarise")
    mean = fmean(values)
    if n == 1:
        return mean, None
    return mean, float(stdtrit(n - 1, 0.975)) * stdev(values) / math.sqrt(n)


def paired_difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float | None]:
    """`summary` of a_k - b_k, for two sets evaluated with the same seed: network k is the same one on both.

    Raises ValueError if the lengths differ.
    """
    return summary([x - y for x, y in zip(a, b, strict=True)])


def percent(mean: float, ci95: float | None, sign: str = "") -> str:
    """A mean and its half width, both fractions, in percent with one decimal: "71.2 ± 3.5"; `sign` "+" shows it."""
    interval = "" if ci95 is None else f" ± {100 * ci95:.1f}"
    return f"{100 * mean:{sign}.1f}{interval}"
