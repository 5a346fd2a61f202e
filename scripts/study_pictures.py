"""Figures of the study, as SVG files that are the same whenever the records are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean, median
from typing import Any

import matplotlib as mpl

mpl.use("agg")  # no screen is needed, nor a toolkit

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from study_data import MAXVIO, SETTINGS, Record, Study, mean_and_half, test_bpb

STYLE = {
    "svg.hashsalt": "s15erav3",  # ids of a drawing that do not change
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "figure.constrained_layout.use": True,
}
COLOURS = {  # Okabe and Ito's, for all eyes
    "none": "#000000",
    "loss_free": "#0072B2",
    "quantile": "#56B4E9",
    "aux_global": "#D55E00",
    "dsv3": "#009E73",
    "dense": "#CC79A7",
    "dense_time": "#E69F00",
}


def draw(study: Study, folder: Path) -> Iterator[Path]:
    """Draw what there are records for; yields the files."""
    drawings: dict[str, Callable[[Study], Figure | None]] = {
        "tradeoff": tradeoff,
        "trajectories": trajectories,
        "churn": churn,
        "experts": experts,
        "tuning": tuning,
        "explored": explored,
    }
    for name, drawing in drawings.items():
        with mpl.rc_context(STYLE):
            if (figure := drawing(study)) is None:
                continue
            file = folder / f"study_{name}.svg"
            figure.savefig(file, metadata={"Date": None})
            plt.close(figure)
        file.write_text("".join(f"{line.rstrip()}\n" for line in file.read_text().splitlines()))
        yield file


def routed(study: Study) -> dict[str, list[Record]]:
    """Runs of the arms with experts."""
    found = {arm: [run for run in runs.values() if MAXVIO in run] for arm, runs in study.seeds.items()}
    return {arm: runs for arm, runs in found.items() if runs}


def tradeoff(study: Study) -> Figure:
    """Loss against evenness: means of the seeds with 95 % intervals, and the seeds themselves."""
    figure, axes = plt.subplots(figsize=(7, 4))
    for arm, runs in routed(study).items():
        if len(runs) > 1:
            _cross(axes, [run[MAXVIO] for run in runs], [test_bpb(run) for run in runs], arm)
    for arm, style in (("dense", "--"), ("dense_time", ":")):
        if study.seeds[arm]:
            at = fmean(test_bpb(run) for run in study.seeds[arm].values())
            axes.axhline(at, color=COLOURS[arm], ls=style, label=f"{arm}, mean")
    axes.set(xscale="log", xlabel="MaxVio of the validation text (further left is more even)", ylabel="test bpb")
    axes.set_xticks([0.03, 0.1, 0.3, 1, 3], labels=["0.03", "0.1", "0.3", "1", "3"])
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _cross(axes: Axes, x: list[float], y: list[float], arm: str) -> None:
    colour = COLOURS[arm]
    (mean_x, half_x), (mean_y, half_y) = mean_and_half(x), mean_and_half(y)
    left = min(half_x, mean_x * 0.9)  # the axis is logarithmic
    axes.errorbar(mean_x, mean_y, half_y, [[left], [half_x]], color=colour, marker="o", capsize=3, label=arm)
    axes.plot(x, y, ".", color=colour, alpha=0.4)


def trajectories(study: Study) -> Figure:
    """MaxVio and loss at each validation: mean of the seeds, and their range."""
    figure, pair = plt.subplots(1, 2, figsize=(9, 3.6))
    for axes, key, label in zip(pair, (MAXVIO, "val/bpb"), ("MaxVio of the validation text", "val bpb"), strict=True):
        for arm, runs in study.seeds.items():
            if arm != "dense_time":  # its steps are others
                _curve(axes, list(runs.values()), key, arm)
        axes.set(xlabel="step", ylabel=label)
    pair[0].set_yscale("log")
    pair[0].yaxis.set_major_formatter("{x:g}")
    pair[1].legend(frameon=False, fontsize=8)
    return figure


def churn(study: Study) -> Figure | None:
    """Tokens that a step sends to other experts: by all that it does, by its weights, by its biases."""
    parts = {"whole step": "step_churn", "weights alone": "weight_churn", "biases alone": "churn"}
    if not any(parts["whole step"] in key for runs in routed(study).values() for key in runs[0]["validations"]):
        return None
    figure, trio = plt.subplots(1, 3, figsize=(10, 3.3), sharey=True)
    for axes, (title, key) in zip(trio, parts.items(), strict=True):
        for arm, runs in routed(study).items():
            _curve(axes, runs, f"balance/{key}", arm, scale=100)
        axes.set(xlabel="step", title=title)
    trio[0].set(ylabel="tokens that change experts, %", ylim=(0, None))
    trio[2].legend(frameon=False, fontsize=8)
    return figure


def _curve(axes: Axes, runs: list[Record], key: str, arm: str, scale: float = 1) -> None:
    curves = [run["validations"] for run in runs if key in run["validations"]]
    if curves:
        values = scale * np.array([curve[key] for curve in curves])
        steps, colour = curves[0]["step"], COLOURS[arm]
        axes.plot(steps, values.mean(axis=0), color=colour, label=arm)
        axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, lw=0)


def experts(study: Study) -> Figure | None:
    """One run of each arm: the load of each expert, and what the text costs more without it."""
    found = {arm: run for arm, runs in routed(study).items() for run in runs if "experts" in run}
    if not found:
        return None
    figure, grid = plt.subplots(2, len(found), figsize=(2.3 * len(found) + 1, 3.4), squeeze=False, sharey=True)
    costs = [1000 * np.array(run["experts"]["ablation/change"]) for run in found.values()]
    most = max(float(cost.max()) for cost in costs)
    for (upper, lower), (arm, run), cost in zip(grid.T, found.items(), costs, strict=True):
        load = np.array(run["last_load"], dtype=float)
        share = np.log2(np.maximum(load / load.mean(axis=1, keepdims=True), 2.0**-9))
        loads = upper.imshow(share, cmap="PuOr_r", vmin=-2, vmax=2, aspect="auto")
        worth = lower.imshow(cost, cmap="Oranges", norm=mpl.colors.PowerNorm(0.5, vmin=0, vmax=most), aspect="auto")
        upper.set_title(arm)
        lower.set_xlabel("expert")
        for axes in (upper, lower):
            axes.grid(False)
            axes.set_yticks(range(len(load)))
            axes.set_xticks([])
    for axes in grid[:, 0]:
        axes.set_ylabel("MoE layer")
    bar = figure.colorbar(loads, ax=grid[0], extend="both", label="load / fair share")
    bar.set_ticks([-2, -1, 0, 1, 2], labels=["1/4", "1/2", "1", "2", "4"])
    ticks = [at for at in (0, 1, 2, 5, 10, 20, 50) if at < most]
    bar = figure.colorbar(worth, ax=grid[1], extend="min", label="cost without it,\n0.001 bits per byte")
    bar.set_ticks(ticks, labels=[f"{at}" for at in ticks])
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
        grid[0, column].set_title(f"{arm}\n{SETTINGS[arm].rpartition('.')[2]}", fontsize=10)
        grid[1, column].tick_params(axis="x", labelrotation=45)
    grid[0, 0].set_ylabel("val bpb")
    grid[1, 0].set(ylabel="MaxVio global", yscale="log")
    return figure


def explored(study: Study) -> Figure | None:
    """Exploratory runs: MaxVio and loss of each strategy, median and range."""
    if not study.explored:
        return None
    strategies = list(dict.fromkeys(strategy for _, strategy in study.explored))[::-1]  # the most even on top
    figure, pair = plt.subplots(1, 2, figsize=(9, 0.27 * len(strategies) + 1), sharey=True)
    for at, (experts, colour) in enumerate((("e16", "#0072B2"), ("e64", "#D55E00"))):
        its = {strategy: runs for (of, strategy), runs in study.explored.items() if of == experts}
        if not its:
            continue
        places = np.array([strategies.index(strategy) for strategy in its]) + 0.15 - 0.3 * at
        for axes, value in zip(pair, (lambda run: float(run[MAXVIO]), test_bpb), strict=True):
            values = [[value(run) for run in runs] for runs in its.values()]
            middle = np.array([median(column) for column in values])
            sides = [[m - min(column), max(column) - m] for m, column in zip(middle, values, strict=True)]
            axes.errorbar(middle, places, xerr=np.array(sides).T, fmt="o", ms=4, capsize=2, color=colour, label=experts)
    pair[0].set_yticks(range(len(strategies)), labels=strategies)
    pair[0].set(xscale="log", xlabel="MaxVio of the validation text")
    pair[0].xaxis.set_major_formatter("{x:g}")
    pair[1].set(xlabel="test bpb")
    pair[1].legend(frameon=False)
    return figure
