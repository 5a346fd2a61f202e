"""Figures of the study, as SVG files that are the same whenever the records are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from study_figures import STYLE

from s15erav3.comparison.statistics import LEVEL, quantile

if TYPE_CHECKING:
    from study_report import Study

COLOURS = {  # Okabe and Ito's, for all eyes
    "none": "#000000",
    "loss_free": "#0072B2",
    "quantile": "#56B4E9",
    "aux_global": "#D55E00",
    "dsv3": "#009E73",
    "dense": "#CC79A7",
    "dense_time": "#E69F00",
}
MAXVIO = "balance/maxvio_global"


def draw(study: Study, folder: Path) -> Iterator[Path]:
    """Draw what there are records for; yields the files."""
    for name, drawing in {"tradeoff": tradeoff, "trajectories": trajectories, "tuning": tuning}.items():
        with mpl.rc_context(STYLE):
            figure = drawing(study)
            file = folder / f"study_{name}.svg"
            figure.savefig(file, metadata={"Date": None})
            plt.close(figure)
        file.write_text("".join(f"{line.rstrip()}\n" for line in file.read_text().splitlines()))
        yield file


def tradeoff(study: Study) -> Figure:
    """Loss against evenness: means of the seeds with 95 % intervals, and the seeds themselves."""
    figure, axes = plt.subplots(figsize=(6.5, 4))
    for arm, runs in study.seeds.items():
        points = [(run[MAXVIO], run["val/bpb"]) for run in runs.values() if MAXVIO in run]
        if len(points) > 1:
            _cross(axes, *(list(values) for values in zip(*points, strict=True)), arm)
    axes.set(xscale="log", xlabel="MaxVio of the validation text", ylabel="val bpb")
    axes.legend(frameon=False)
    return figure


def _cross(axes: Axes, x: list[float], y: list[float], arm: str) -> None:
    colour = COLOURS[arm]
    half = [quantile(LEVEL, len(v) - 1) * stdev(v) / math.sqrt(len(v)) for v in (x, y)]
    left = min(half[0], fmean(x) * 0.9)  # the axis is logarithmic
    axes.errorbar(fmean(x), fmean(y), half[1], [[left], [half[0]]], color=colour, marker="o", capsize=3, label=arm)
    axes.plot(x, y, ".", color=colour, alpha=0.4)


def trajectories(study: Study) -> Figure:
    """MaxVio and loss at each validation: mean of the seeds, and their range."""
    figure, pair = plt.subplots(1, 2, figsize=(9, 3.6))
    for axes, key, label in zip(pair, (MAXVIO, "val/bpb"), ("MaxVio of the validation text", "val bpb"), strict=True):
        for arm, runs in study.seeds.items():
            curves = [run["validations"] for run in runs.values() if key in run["validations"]]
            if curves and arm != "dense_time":  # its steps are others
                values = list(zip(*(curve[key] for curve in curves), strict=True))
                steps = curves[0]["step"]
                axes.plot(steps, [fmean(v) for v in values], color=COLOURS[arm], label=arm)
                axes.fill_between(
                    steps, [min(v) for v in values], [max(v) for v in values], color=COLOURS[arm], alpha=0.15, lw=0
                )
        axes.set(xlabel="step", ylabel=label)
    pair[0].set_yscale("log")
    pair[1].legend(frameon=False, fontsize=8)
    return figure


def tuning(study: Study) -> Figure:
    """Loss and MaxVio over the values of the tuning, one column for each arm."""
    figure, grid = plt.subplots(
        2, max(1, len(study.tuning)), figsize=(11, 4.2), sharex="col", sharey="row", squeeze=False
    )
    for column, (arm, tried) in enumerate(study.tuning.items()):
        values = sorted(tried)
        places: list[Any] = [f"{value:g}" for value in values]
        for axes, key in zip(grid[:, column], ("val/bpb", MAXVIO), strict=True):
            ys = [tried[value].get(key, math.nan) for value in values]
            axes.plot(places, ys, "o-", color=COLOURS[arm], markersize=4)
        grid[0, column].set_title(arm, fontsize=10)
        grid[1, column].tick_params(axis="x", labelrotation=45)
    grid[0, 0].set_ylabel("val bpb")
    grid[1, 0].set(ylabel="MaxVio global", yscale="log")
    return figure
