"""The figures of a balancing study, as SVG files that are the same whenever the runs are."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import matplotlib as mpl

mpl.use("agg")  # no screen is needed, nor a toolkit

import matplotlib.pyplot as plt
import numpy as np
from figure_labels import Label, place
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from study_runs import (
    BPB,
    CHURN,
    FLOOR,
    MAXVIO,
    MAXVIO_BATCH,
    NOT_CAUSAL,
    Curve,
    Runs,
    Study,
    middle,
    pareto,
    running_mean,
)

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


class Family(NamedTuple):
    """Strategies of one kind share a colour (Okabe and Ito's, for all eyes) and a marker."""

    title: str
    colour: str
    marker: str
    members: tuple[str, ...]


FAMILIES = (
    Family("nothing", "#000000", "s", ("none",)),
    Family("biases", "#0072B2", "o", ("loss_free", "proportional", "smebu", "original", "quantile")),
    Family("biases and a loss", "#009E73", "D", ("dsv3",)),
    Family("a loss", "#D55E00", "^", ("aux_micro", "aux_sequence", "aux_global", "simbal", "switch")),
    Family("not causal", "#CC79A7", "v", tuple(NOT_CAUSAL)),
)
FAMILY = {name: family for family in FAMILIES for name in family.members}
SETTING_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
HEATMAPS = ("none", "loss_free", "quantile")
LEAST_MAXVIO = 0.02  # a logarithmic axis has no 0
XLABEL = f"MaxVio of the validation text (0 is even, and drawn at {LEAST_MAXVIO:g})"


def draw_all(study: Study, folder: Path) -> Iterator[Path]:
    """Draw what there are runs for; yields the files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawings: dict[str, Callable[[Study], Figure | None]] = {
        "tradeoff": tradeoff,
        "maxvio": maxvio,
        "loads": loads,
        "churn": churn_curves,
    }
    for name, draw in drawings.items():
        with mpl.rc_context(STYLE):
            figure = draw(study)
            if figure is not None:
                file = folder / f"balancing_{name}.svg"
                figure.savefig(file, metadata={"Date": None})
                file.write_text(
                    re.sub(r"([1-9]\d*\.\d\d)\d+", r"\1", file.read_text())
                )  # a third smaller, looks the same
                plt.close(figure)
                yield file


def present(study: Study, setting: str) -> dict[str, Runs]:
    """Strategies that have final runs."""
    return {name: runs for name in study.strategies if (runs := study.finals(setting, name))}


def begun(study: Study) -> list[str]:
    """Expert settings that have final runs."""
    return [setting for setting in study.settings if present(study, setting)]


def tradeoff(study: Study) -> Figure | None:
    """Bits per byte against MaxVio: a point per run, a name per strategy, the Pareto front of the medians."""
    settings = begun(study)
    if not settings:
        return None
    figure, axes = plt.subplots(1, len(settings), figsize=(5.6 * len(settings), 5.2), sharey=True, squeeze=False)
    names: list[list[Label]] = []
    for axis, setting in zip(axes[0], settings, strict=True):
        labels, front = [], []
        for name, runs in present(study, setting).items():
            family = FAMILY[name]
            x = [max(run.result[MAXVIO], LEAST_MAXVIO) for run in runs.values()]
            y = [run.result[BPB] for run in runs.values()]
            hollow = "none" if name in NOT_CAUSAL else family.colour
            center = (median(x), median(y))
            axis.scatter(x, y, s=26, marker=family.marker, facecolors=hollow, edgecolors=family.colour, zorder=3)
            for run in zip(x, y, strict=True):
                axis.plot(*zip(center, run, strict=True), color=family.colour, lw=0.8, alpha=0.5)
            labels.append(Label(*center, name, family.colour))
            if name not in NOT_CAUSAL:
                front.append((*center, name))
        corners = [(x, y) for x, y, _ in pareto(front)]
        axis.plot(*zip(*corners, strict=True), color="#777777", lw=1, ls="--", zorder=1)
        if dense := study.dense():
            axis.axhline(median(run.result[BPB] for run in dense.values()), color="#999999", lw=1, ls=":", zorder=1)
        axis.set(xscale="log", title=f"experts={setting}", xlabel=XLABEL)
        plain_log(axis.xaxis)
        axis.margins(x=0.16, y=0.08)
        names.append(labels)
    axes[0, 0].set_ylabel("validation, bits per byte (less is better)")
    key = [plt.Line2D([], [], ls="", marker=f.marker, color=f.colour, label=f.title) for f in FAMILIES]
    key[-1].set_markerfacecolor("none")
    key += [plt.Line2D([], [], color="#777777", lw=1, ls="--", label="Pareto front of medians (causal)")]
    key += [plt.Line2D([], [], color="#999999", lw=1, ls=":", label="dense control")]
    figure.legend(handles=key, loc="outside upper center", ncols=min(4, 2 * len(settings)), frameon=False)
    figure.draw_without_rendering()
    for axis, labels in zip(axes[0], names, strict=True):
        place(axis, labels)
    return figure


def plain_log(axis: mpl.axis.Axis) -> None:
    """0.1 and not 10 to the power of -1."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def maxvio(study: Study) -> Figure | None:
    """MaxVio of training steps: a small picture for each strategy, over that of no balancing."""
    settings = begun(study)
    names = [name for name in study.strategies if any(study.finals(setting, name) for setting in settings)]
    if not names:
        return None
    columns = min(5, len(names))
    shape = (math.ceil(len(names) / columns), columns)
    figure, axes = plt.subplots(
        *shape, figsize=(2.2 * columns, 1.8 * shape[0] + 1), sharex=True, sharey=True, squeeze=False
    )
    for axis, name in zip(axes.flat, names, strict=False):
        for setting, colour in zip(settings, SETTING_COLOURS, strict=False):
            if none := study.finals(setting, "none"):
                line(axis, none, colour, alpha=0.25)
            if runs := study.finals(setting, name):
                line(axis, runs, colour, label=setting)
                floor = next(iter(runs.values())).curve(FLOOR)  # is the same at all steps
                ends = np.array((floor[0], floor[-1])).T
                axis.plot(*ends, color=colour, lw=1, ls=":", label=f"{setting}, random routing")
        axis.set(yscale="log", title=name)
        plain_log(axis.yaxis)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    for axis in axes[-2, len(names) - axes.size :] if len(names) < axes.size else ():  # nothing below them
        axis.tick_params(labelbottom=True)
    axes[0, 0].set_ylim(bottom=LEAST_MAXVIO)
    figure.supxlabel("step", fontsize=10)
    figure.supylabel("MaxVio of a step, running mean", fontsize=10)
    handles = dict(zip(*reversed(axes[0, 0].get_legend_handles_labels()), strict=True))
    faint = plt.Line2D([], [], color="#777777", alpha=0.4, label="none")
    figure.legend(handles=[*handles.values(), faint], loc="outside upper center", ncols=5, frameon=False)
    return figure


def line(axis: Axes, runs: Runs, colour: str, label: str | None = None, alpha: float = 1.0) -> None:
    """The median over seeds of the running mean of MaxVio."""
    curve = middle([running_mean(run.curve(MAXVIO_BATCH)) for run in runs.values()])
    steps, values = np.array(curve).reshape(-1, 2).T  # a very short run has no mean yet
    axis.plot(steps, np.maximum(values, LEAST_MAXVIO), color=colour, lw=1.4, label=label, alpha=alpha, clip_on=False)


def loads(study: Study) -> Figure | None:
    """Which experts of the last layer are busy, step by step: one run of each of three strategies."""
    settings = begun(study)
    names = [name for name in HEATMAPS if any(study.finals(setting, name) for setting in settings)]
    if not names:
        return None
    shape = (len(settings), len(names))
    figure, axes = plt.subplots(*shape, figsize=(3.4 * shape[1] + 0.8, 2.5 * shape[0] + 0.3), squeeze=False)
    for setting, row in zip(settings, axes, strict=True):
        for name, axis in zip(names, row, strict=True):
            if not (runs := study.finals(setting, name)):
                axis.set_axis_off()
                continue
            steps, table = next(iter(runs.values())).loads(-1)
            share = np.array(table, dtype=float)
            share /= share.mean(axis=1, keepdims=True)
            picture = axis.pcolormesh(
                steps,
                np.arange(share.shape[1]),
                np.log2(np.maximum(share, 2.0**-9)).T,
                cmap="PuOr_r",
                vmin=-2,
                vmax=2,
                shading="nearest",
                rasterized=True,
            )
            axis.grid(False)
            axis.set(title=f"{name}, {setting}")
            axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        row[0].set_ylabel("expert")
    for axis in axes[-1]:
        axis.set_xlabel("step")
    bar = figure.colorbar(picture, ax=axes, extend="both", label="load / fair share", shrink=0.8)
    bar.set_ticks([-2, -1, 0, 1, 2], labels=["1/4", "1/2", "1", "2", "4"])
    return figure


def churn_curves(study: Study) -> Figure | None:
    """How many choices the last bias update changed, at every validation."""
    settings = [s for s in begun(study) if any(moving(runs) for runs in present(study, s).values())]
    if not settings:
        return None
    figure, axes = plt.subplots(1, len(settings), figsize=(4.8 * len(settings), 3.8), sharey=True, squeeze=False)
    names: list[list[Label]] = []
    for axis, setting in zip(axes[0], settings, strict=True):
        curves = {name: moving(runs) for name, runs in present(study, setting).items()}
        labels = []
        for name, curve in curves.items():
            if curve:
                steps, values = np.array(curve).T
                colour, marker = FAMILY[name].colour, FAMILY[name].marker
                axis.plot(steps, 100 * values, color=colour, marker=marker, ms=4, lw=1.2)
                labels.append(Label(steps[0], 100 * values[0], name, colour))
        axis.set(title=f"experts={setting}", xlabel="step")
        axis.set_xticks(sorted({step for curve in curves.values() for step, _ in curve}))
        axis.margins(x=0.3)  # names stand before the curves
        axis.set_xlim(right=1.05 * axis.get_xticks()[-1])
        names.append(labels)
    axes[0, 0].set_ylabel("tokens that the last bias update sent elsewhere, %")
    figure.draw_without_rendering()
    for axis, labels in zip(axes[0], names, strict=True):
        place(axis, labels)
    return figure


def moving(runs: Runs) -> Curve:
    """Churn over the validations, median over seeds; nothing where biases are never updated."""
    curves = [curve for run in runs.values() if (curve := run.curve(CHURN))]
    curve = middle(curves) if curves else []
    return curve if any(value for _, value in curve) else []
