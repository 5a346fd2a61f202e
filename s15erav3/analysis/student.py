"""Student's t distribution with whole degrees of freedom (Abramowitz and Stegun 26.7.3 and 26.7.4)."""

from __future__ import annotations

import math


def p_value(t: float, df: int) -> float:
    """Two-sided: the probability of a value at least as far from 0 as ``t``."""
    angle = math.atan(abs(t) / math.sqrt(df))
    odd = df % 2
    term = math.cos(angle) if odd else 1.0
    series = 0.0
    for k in range(df // 2):
        series += term
        term *= math.cos(angle) ** 2 * ((2 * k + 2) / (2 * k + 3) if odd else (2 * k + 1) / (2 * k + 2))
    inside = 2 / math.pi * (angle + math.sin(angle) * series) if odd else math.sin(angle) * series
    return max(0.0, 1 - inside)


def quantile(p: float, df: int) -> float:
    """Return the ``t`` whose two-sided p-value is ``p``, in (0, 1), by bisection."""
    low, high = 0.0, 1.0
    while p_value(high, df) > p and high < 1e12:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(middle, df) > p else (low, middle)
    return high
