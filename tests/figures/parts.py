"""Loads for figures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def loads(steps: int, layers: int, experts: int) -> NDArray[np.int64]:
    """Uneven loads (steps, layers, experts), the same at every call."""
    return np.random.default_rng(0).poisson(50, (steps, layers, experts))
