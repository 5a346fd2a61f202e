"""The runs of a sweep, grouped over seeds: medians and ranges, the order of the groups, the Pareto front."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from s15erav3.comparison.settings import ABSENT, identity, natural, settings
from s15erav3.runs.baselines import baselines
from s15erav3.runs.reader import Run

BPB, MAXVIO = "val/bpb", "balance/maxvio_global"
TEXT = ("name", "path", "document", "val_fraction", "test_fraction", "split_seed")
"""Keys of ``data`` that determine which text is measured."""
NOT_METRICS = ("seed", "pid", "time", "first_step", "causal")


class Spread(NamedTuple):
    """Statistics of a metric over the counted runs of a group with finite values; NaN if there are none."""

    median: float
    low: float
    high: float
    n: int


class Group(NamedTuple):
    """Runs that differ only in their seed or their rounding."""

    settings: dict[str, str]
    """Settings in which the groups differ."""
    runs: list[Run]
    """All runs in any state, without those of ``noise``."""
    counted: list[Run]
    """Runs whose metrics count."""
    noise: Sequence[Run] = ()
    """Runs with other rounding, in any state. They repeat a seed, so they are not counted."""

    def values(self, metric: str) -> list[float]:
        """Return the metric of each counted run; NaN where missing."""
        return [value(run, metric) for run in self.counted]

    def spread(self, metric: str) -> Spread:
        """Compute median and range."""
        finite = sorted(v for v in self.values(metric) if math.isfinite(v))
        if not finite:
            return Spread(math.nan, math.nan, math.nan, 0)
        return Spread(median(finite), finite[0], finite[-1], len(finite))

    @property
    def causal(self) -> bool:
        """Whether all runs are causal; otherwise their bits per byte are too low."""
        return all(run.result.get("causal", True) for run in self.counted)

    @property
    def name(self) -> str:
        """The group's settings in one line."""
        return " ".join(f"{key}={text}" for key, text in self.settings.items() if text != ABSENT) or "all runs"


def groups(runs: Sequence[Run], *, unfinished: bool = False) -> list[Group]:
    """Group runs, in the natural order of their settings. Broken runs, whose config is unknown, are skipped.

    Args:
        unfinished: also count the latest metrics of running runs.
    """
    known = [run for run in runs if run.status != "broken"]
    found: dict[str, list[Run]] = defaultdict(list)
    differing: dict[str, dict[str, str]] = {}
    for run, these in zip(known, settings(known), strict=True):
        key = identity(run.config) + repr(these)
        found[key].append(run)
        differing[key] = these
    states = ("completed", "running") if unfinished else ("completed",)
    made = []
    for key, its in found.items():
        own = [run for run in its if not run.config.get("rounding")]
        noise = [run for run in its if run.config.get("rounding")]
        made.append(Group(differing[key], own, [r for r in own if r.status in states], noise))
    return sorted(made, key=lambda group: [natural(text) for text in group.settings.values()])


def value(run: Run, metric: str) -> float:
    """Return a metric of ``Run.result``; NaN if it is missing or not a number."""
    found = run.result.get(metric)
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else math.nan


def metrics(runs: Sequence[Run]) -> list[str]:
    """Return the names of all numeric metrics of the runs."""
    return list(
        dict.fromkeys(
            key
            for run in runs
            for key, found in run.result.items()
            if isinstance(found, int | float) and not isinstance(found, bool) and key not in NOT_METRICS
        )
    )


def ordered(found: Sequence[Group], metric: str, *, descending: bool = False) -> list[Group]:
    """Sort groups by a metric's median, those without it last."""

    def place(group: Group) -> tuple[bool, float]:
        median = group.spread(metric).median
        return (math.isnan(median), -median if descending else median)

    return sorted(found, key=place)


def pareto(points: ArrayLike) -> NDArray[np.bool_]:
    """Mark the non-dominated points of (N, 2), lower being better: (N,). Points with NaN are never included."""
    table = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    front, last = np.zeros(len(table), dtype=bool), None
    for i in np.lexsort((table[:, 1], table[:, 0])):
        if np.isnan(table[i]).any():
            continue
        front[i] = (
            last is None or table[i, 1] < last[1] or (table[i] == last).all()
        )  # the last case: a duplicate of the previous front point
        if front[i]:
            last = table[i]
    return front


def states(runs: Sequence[Run]) -> dict[str, int]:
    """Count runs per state, successful states first."""
    count = Counter(run.status for run in runs)
    known = ("completed", "pruned", "running", "interrupted", "failed", "broken")
    return {state: count[state] for state in (*known, *sorted(count.keys() - set(known))) if count[state]}


def account(run: Run) -> str:
    """Explain why a run does not count, or its progress."""
    step, of = run.result.get("step", run.result.get("steps")), run.result.get("max_steps")
    reached = f"step {step:,} of {of:,}" if isinstance(step, int) and isinstance(of, int) and of > 0 else ""
    return "; ".join(part for part in (" ".join(run.reason.split()), reached) if part)


def cautions(found: Sequence[Group]) -> list[str]:
    """Return caveats of the comparison, one sentence each."""
    notes = []
    uneven = [
        (group, lengths)
        for group in found
        if len(lengths := {r.result.get("steps", r.result.get("step")) for r in group.counted}) > 1
    ]
    if uneven:
        steps = ", ".join(f"{n:,}" if isinstance(n, int) else "unknown" for n in sorted(uneven[0][1], key=str))
        notes.append(f"Runs of one group differ in steps ({_first(uneven, [g.name for g, _ in uneven])}: {steps}).")
    texts = {json_text(run.config.get("data")) for group in found for run in group.counted}
    if len(texts) > 1:
        notes.append(f"The runs were measured on {len(texts)} different texts or splits; val/bpb is not comparable.")
    leaking = [group for group in found if not group.causal]
    if leaking:
        notes.append(
            f"Not causal, so bits per byte are too low: {_first(leaking, [g.name for g in leaking])}; left out of "
            "the Pareto front and of the effects."
        )
    endless = [run for group in found for run in group.counted if not math.isfinite(value(run, BPB))]
    if endless:
        notes.append(f"Counted but without a finite val/bpb: {_first(endless, [str(r.folder) for r in endless])}.")
    commits = [g for g in found if len({r.result.get("git_commit") for r in g.counted if r.status == "completed"}) > 1]
    if commits:
        notes.append(
            f"Runs of one group come from different commits of the code: {_first(commits, [g.name for g in commits])}."
        )
    beside = {line for group in found for run in group.counted if (line := baselines(run.folder))}
    return notes + [f"Baselines in bits per byte: {line}." for line in sorted(beside)]


def json_text(data: Any) -> tuple[Any, ...]:
    """Identify the measured text from the config's ``data``."""
    return tuple(str(data.get(key)) for key in TEXT) if isinstance(data, dict) else ()


def _first(found: Sequence[object], names: list[str]) -> str:
    return names[0] + (f" and {len(found) - 1} more" if len(found) > 1 else "")
