"""Intervals of bits per byte over the documents of a text.

Shapes: D documents, M measurements of the same documents.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from s15erav3.analysis.student import quantile

LEVEL = 0.05
ROOM = 2**22
"""Maximum counts of documents in memory at one time."""
Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """Bits per byte with their 95 % interval, (M,) each."""

    mean: Floats
    half: Floats
    """Half the width; NaN with a single document, which shows no scatter."""


def resampled(nll: Floats, size: Floats, draws: int = 2000) -> Floats:
    """Bits per byte of texts of D documents that are drawn with replacement: (draws, M).

    Args:
        nll: nats of each document, (D, M).
        size: bytes of each document, (D,), or (D, M). A draw without any is NaN.
    """
    draw, n = np.random.default_rng(0), len(nll)
    found = []
    for first in range(0, draws, step := max(1, ROOM // n)):
        rows = min(step, draws - first)
        at = draw.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(at.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)
        weight = counts @ size
        with np.errstate(invalid="ignore"):
            found.append(counts @ nll / (weight[:, None] if size.ndim == 1 else weight) / math.log(2))
    return np.concatenate(found)


def interval(nll: Floats, size: Floats) -> Interval:
    """Bits per byte (M,) of documents (D, M) with bytes (D,)."""
    return Interval(nll.sum(axis=0) / size.sum() / math.log(2), spread(resampled(nll, size), len(nll)))


def spread(draws: Floats, documents: int) -> Floats:
    """Half the 95 % interval (M,) from resampled values (draws, M); NaN for a single document.

    The t quantile, and the factor D / (D - 1) of the variance, account for few documents.
    """
    if documents < 2:
        return np.full(draws.shape[1], np.nan)
    half: Floats = np.sqrt(draws.var(axis=0) * documents / (documents - 1))
    return quantile(LEVEL, documents - 1) * half
