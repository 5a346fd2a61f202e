"""Scatter of a group by rounding alone, from runs of one seed (``sweep.noise_runs``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median, stdev
from typing import NamedTuple

from s15erav3.analysis.student import quantile
from s15erav3.comparison.groups import BPB, Group, value


class Scatter(NamedTuple):
    """Standard deviation of a group's bits per byte over runs of one seed that differ in rounding."""

    name: str
    deviation: float
    mean: float
    n: int
    """Runs, the one without changed rounding included."""


def scatter(group: Group, name: str) -> Scatter | None:
    """Measure it over the completed noise runs and the counted run of their seed; ``None`` with fewer than two."""
    noise = [run for run in group.noise if run.status == "completed"]
    seeds = {str(run.config.get("seed")) for run in noise}
    same = [run for run in group.counted if str(run.config.get("seed")) in seeds]
    found = [v for run in [*same, *noise] if math.isfinite(v := value(run, BPB))]
    if len(seeds) != 1 or len(found) < 2:
        return None
    return Scatter(name, stdev(found), fmean(found), len(found))


def detectable_by_rounding(one: Scatter, base: Scatter, runs: tuple[int, int], comparisons: int) -> float:
    """Relative difference between the means of ``runs`` runs that is found with a probability of about 80 %.

    It is a lower limit, as if the runs of a group differed in rounding alone.
    """
    error = math.sqrt(one.deviation**2 / max(1, runs[0]) + base.deviation**2 / max(1, runs[1]))
    df = one.n + base.n - 2
    return (quantile(0.05 / comparisons, df) + quantile(0.4, df)) * error / base.mean


def sentence(found: Sequence[Scatter]) -> str:
    """List the scatters relative to their means."""
    each = ", ".join(f"{one.name} {100 * one.deviation / one.mean:.2g} % ({one.n} runs)" for one in found)
    return f"Rounding alone, at one seed, scatters val/bpb by (standard deviation): {each}."


def least_by_rounding(groups: Sequence[tuple[Group, Scatter]], base: tuple[Group, Scatter] | None) -> float:
    """Median over the groups of :func:`detectable_by_rounding` against ``base``; 0 without both."""
    others = [pair for pair in groups if base is not None and pair[0] is not base[0]]
    if base is None or not others:
        return 0.0
    return median(
        detectable_by_rounding(its, base[1], (len(group.counted), len(base[0].counted)), len(others))
        for group, its in others
    )
