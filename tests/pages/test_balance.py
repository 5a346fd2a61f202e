"""The charts of a run's balance, from invented loads."""

from __future__ import annotations

import numpy as np
import pytest

from s15erav3.pages.balance import unevenness
from s15erav3.runs.reader import Balance


def test_percentiles_are_of_all_experts_of_all_layers() -> None:
    """Loads 0 to 4 over their share of 2 in one layer, even ones in the other. Seen to fail with another axis."""
    load = np.array([[[0.0, 1, 2, 3, 4], [7, 7, 7, 7, 7]]])
    balance = Balance(np.array([1.0]), np.array([64.0]), [1, 2], load, 0 * load, 0 * load)
    (chart,) = (c for c in unevenness({}, balance) if "Percentiles" in str(c.figure.layout.title.text))
    shares = [0, 0.5, 1, 1.5, 2, 1, 1, 1, 1, 1]
    drawn = [line.y[0] for line in chart.figure.data]
    assert drawn == pytest.approx([np.percentile(shares, percent) for percent in (5, 50, 95)], rel=1e-3)
