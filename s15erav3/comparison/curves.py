"""Training curves of a sweep's runs, and the median curve of each group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from s15erav3.comparison.groups import Group
from s15erav3.figures.spent import COLUMNS, spent
from s15erav3.runs.reader import Floats, Run, read_metrics


class Curve(NamedTuple):
    """Metrics of a run from ``metrics.csv``, or medians of a group. Shapes: S logged steps."""

    group: int
    """Index of the group."""
    run: Run | None
    """``None`` for the medians of a group."""
    counted: bool
    """Whether the run's metrics count for its group."""
    steps: Floats
    """(S,)."""
    spent: dict[str, Floats]
    """Steps, tokens, FLOPs and seconds up to each step by ruler, (S,) each; without those that are not logged."""
    values: dict[str, Floats]
    """Values by metric, (S,); NaN where a step lacks the metric."""


def curves(groups: Sequence[Group], metrics: Sequence[str], at_most: int = 200) -> list[Curve]:
    """Return curves of up to ``at_most`` runs, in the order of the groups and with complete groups while they fit.
    The runs of a group are followed by its medians if two or more runs count."""
    found: list[Curve] = []
    left = at_most
    for number, group in enumerate(groups):
        if found and len(group.runs) > left:
            break
        its = [curve for run in group.runs[:left] if (curve := _read(number, run, run in group.counted, metrics))]
        left -= len(its)
        found += its
        counted = [curve for curve in its if curve.counted]
        if len(counted) > 1:
            found.append(middle(counted))
        if left <= 0:
            break
    return found


def middle(found: Sequence[Curve]) -> Curve:
    """Return medians at the steps common to all curves; for each metric where all have a value."""
    shared = found[0].steps
    for curve in found[1:]:
        shared = np.intersect1d(shared, curve.steps)
    rows = [np.searchsorted(curve.steps, shared) for curve in found]
    values, spent = (_medians(tables, rows) for tables in zip(*((c.values, c.spent) for c in found), strict=True))
    return Curve(found[0].group, None, True, shared, spent, values)


def _medians(tables: Sequence[dict[str, Floats]], rows: Sequence[NDArray[np.intp]]) -> dict[str, Floats]:
    """Return medians over tables at the rows of each, of columns that all have; NaN where a value is missing."""
    return {
        name: np.median([table[name][at] for table, at in zip(tables, rows, strict=True)], axis=0)
        for name in tables[0]
        if all(name in table for table in tables)
    }


def _read(group: int, run: Run, counted: bool, metrics: Sequence[str]) -> Curve | None:
    table = read_metrics(run.folder, [*COLUMNS, *metrics])
    if "step" not in table or not np.isfinite(table["step"]).any():
        return None
    known = np.isfinite(table["step"])
    steps, rows = np.unique(table["step"][known], return_inverse=True)
    merged = {}
    for name, column in table.items():  # a step has one row per logging call
        told = np.isfinite(column[known])
        merged[name] = np.full(len(steps), np.nan)
        merged[name][rows[told]] = column[known][told]
    values = {name: merged[name] for name in metrics if name in merged}
    return Curve(group, run, counted, steps, spent(merged), values)
