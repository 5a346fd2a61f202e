"""What a training had spent at each row of ``metrics.csv``: steps, tokens, FLOPs and seconds. Shapes: S rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from s15erav3.figures.ruler import CLOCK, FLOPS, STEPS, TOKENS

Floats = NDArray[np.float64]
COLUMNS = ("step", "tokens", "flops", "perf/tokens_per_second")
"""Columns of ``metrics.csv`` from which it is computed."""


def spent(metrics: Mapping[str, Floats]) -> dict[str, Floats]:
    """Return steps, tokens, FLOPs and seconds by ruler, (S,) each; those that the run did not record are left out.

    Rows of validation lack some columns; their values follow from their tokens. FLOPs are in proportion to tokens. The
    speed of a row is that since the row before, so

        seconds_i = seconds_(i-1) + (tokens_i - tokens_(i-1)) / speed_i.

    Validation takes no time on this clock, nor does the time between an interruption and the resume. Steps that an
    interrupted run had not logged yet count at the speed of the next row.

    Args:
        metrics: columns of ``metrics.csv``, NaN where a row lacks a value; rows in the order of their steps.
    """
    steps = metrics.get("step")
    if steps is None:
        return {}
    nothing = np.full(len(steps), np.nan)
    tokens, flops, speed = (metrics.get(name, nothing) for name in COLUMNS[1:])
    if not (known := np.isfinite(tokens) & np.isfinite(steps)).any():
        return {STEPS: steps}
    tokens = np.interp(steps, steps[known], tokens[known])
    found = {STEPS: steps, TOKENS: tokens}
    if (told := np.isfinite(flops) & (tokens > 0)).any():
        found[FLOPS] = tokens * (flops[told] / tokens[told])[-1]
    if (told := speed > 0).any():
        ends, rates = np.append(tokens[told], np.nanmax(tokens)), speed[told]
        seconds = np.cumsum(np.diff(ends, prepend=0.0) / np.append(rates, rates[-1]))
        found[CLOCK] = np.interp(tokens, np.append(0.0, ends), np.append(0.0, seconds))
    return found
