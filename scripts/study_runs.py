"""The run folders of a balancing study, as numbers: what its report and its figures are made of."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from study_balancing import DENSE, STRATEGIES, best_value, result

WINDOW = 5  # logged steps in the running mean of MaxVio, which jumps from step to step
BALANCED = 2.0  # times the random floor: even as far as one step can tell
BPB, MAXVIO = "val/bpb", "balance/maxvio_global"
MAXVIO_BATCH, FLOOR, CHURN = "balance/maxvio_batch", "balance/maxvio_floor", "balance/churn"
NOT_CAUSAL = {"bip": "not in training", "expert_choice": "no"}

Curve = list[tuple[int, float]]
"""(step, value), in the order of the steps."""


class Run(NamedTuple):
    """A completed run."""

    folder: Path
    result: dict[str, Any]

    def curve(self, metric: str) -> Curve:
        """The metric at every step at which it was logged."""
        return _curve(self.folder / "metrics.csv", metric)

    def loads(self, layer: int) -> tuple[list[int], list[list[int]]]:
        """Logged steps, and the tokens each expert of the MoE layer (its index among them) received."""
        lines = [json.loads(line) for line in (self.folder / "balance.jsonl").read_text().splitlines()]
        return [line["step"] for line in lines], [line["load"][layer] for line in lines]


Runs = dict[int, Run]
"""The completed runs of one strategy, by seed."""


class Spread(NamedTuple):
    """A median is told with its range: three seeds have no standard deviation to speak of."""

    median: float
    least: float
    most: float


class Study(NamedTuple):
    """A study's folder and what was to be run."""

    out: Path
    settings: list[str]
    strategies: list[str]
    seeds: list[int]

    def finals(self, setting: str, strategy: str) -> Runs:
        """Completed final runs."""
        folders = {seed: self.out / "final" / setting / strategy / f"{seed}" for seed in self.seeds}
        return {seed: Run(folder, found) for seed, folder in folders.items() if (found := result(folder))}

    def dense(self) -> Runs:
        """Completed runs of the control without experts."""
        return self.finals(DENSE, DENSE)

    def tuned(self, setting: str, strategy: str) -> dict[float, Run | None]:
        """The values that are tried, in order, with their runs as far as completed."""
        folders = {v: self.out / "tune" / setting / strategy / f"{v:g}" for v in STRATEGIES[strategy].values}
        return {v: Run(folder, found) if (found := result(folder)) else None for v, folder in folders.items()}

    def chosen(self, setting: str, strategy: str) -> float | None:
        """The value that tuning prefers; ``None`` where nothing is tuned, or not all of it is done."""
        try:
            return best_value(self.out, setting, strategy)
        except SystemExit:
            return None

    def missing(self) -> dict[str, list[str]]:
        """What is not completed: values of ``tune/e16/loss_free``, seeds of ``final/e16/none``, and so on."""
        pairs = [(setting, name) for setting in self.settings for name in self.strategies]
        found = {
            f"tune/{setting}/{name}": [f"{value:g}" for value, run in self.tuned(setting, name).items() if run is None]
            for setting, name in pairs
        }
        for setting, name in [(DENSE, DENSE), *pairs]:
            done = self.finals(setting, name)
            found[f"final/{setting}/{name}"] = [f"{seed}" for seed in self.seeds if seed not in done]
        return {job: runs for job, runs in found.items() if runs}

    def completed(self, stage: str) -> list[Run]:
        """All completed runs of ``tune`` or ``final``."""
        files = sorted((self.out / stage).glob("*/*/*/result.json"))
        return [Run(file.parent, found) for file in files if (found := result(file.parent))]


@cache
def _curve(file: Path, metric: str) -> Curve:
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [(int(row["step"]), float(row[metric])) for row in rows if row.get(metric)]


def spread(values: Iterable[float]) -> Spread:
    """Median, least and most of at least one value."""
    ordered = sorted(values)
    return Spread(median(ordered), ordered[0], ordered[-1])


def of(runs: Runs, metric: str) -> Spread | None:
    """A metric of ``result.json`` over the seeds; ``None`` where no run has it."""
    values = [run.result[metric] for run in runs.values() if metric in run.result]
    return spread(values) if values else None


def paired(ours: Runs, theirs: Runs) -> Spread | None:
    """By how many percent our val/bpb differs from theirs at the same seed; ``None`` without a common seed."""
    both = sorted(ours.keys() & theirs.keys())
    shares = [100 * (ours[seed].result[BPB] / theirs[seed].result[BPB] - 1) for seed in both]
    return spread(shares) if shares else None


def running_mean(curve: Curve, window: int = WINDOW) -> Curve:
    """Each step with the mean of the last ``window`` values; the first steps have too few and are left out."""
    return [
        (curve[end - 1][0], fmean(value for _, value in curve[end - window : end]))
        for end in range(window, len(curve) + 1)
    ]


def steps_to_balance(run: Run) -> float:
    """The first logged step from which on the running mean of MaxVio stays at or below twice the random floor;
    infinite if it never does, so that a median over seeds can be taken."""
    floor, first = dict(run.curve(FLOOR)), math.inf
    for step, mean in reversed(running_mean(run.curve(MAXVIO_BATCH))):
        if mean > BALANCED * floor[step]:
            break
        first = step
    return first


def churn(runs: Runs) -> float | None:
    """Median over seeds and over the validations in the middle of training: at the end, rates have fallen to 0."""
    values = [value for run in runs.values() for _, value in run.curve(CHURN)[:-1]]
    return median(values) if values else None


def middle(curves: list[Curve]) -> Curve:
    """The median of several runs, at the steps they have in common."""
    common = sorted(set.intersection(*({step for step, _ in curve} for curve in curves)))
    tables = [dict(curve) for curve in curves]
    return [(step, median(table[step] for table in tables)) for step in common]


def pareto(points: list[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Those of the points (x, y, name), both coordinates the smaller, the better, that no other one beats; by x."""
    front: list[tuple[float, float, str]] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front
