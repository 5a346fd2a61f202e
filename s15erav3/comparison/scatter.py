"""Scatter plot of groups of runs by two metrics.

Traces of a group of runs have its index in ``meta``: ``{"group": 3}``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from s15erav3.comparison.legend import GREY, Legend, legend_group, legend_traces
from s15erav3.figures.style import figure, log_axis
from s15erav3.figures.training import significant

FEW = 24
"""Maximum groups drawn with error bars."""


class Point(NamedTuple):
    """A group of runs in the scatter plot."""

    name: str
    group: int
    x: tuple[float, float, float]
    """Median, lowest, highest."""
    y: tuple[float, float, float]
    kind: int
    """Index into the legend, which determines the colour."""
    front: bool
    """Whether the group is on the Pareto front."""
    label: str
    """Label of a point on the front."""
    runs: ArrayLike
    """Each run's x and y, (R, 2)."""


def trade_off(
    points: Sequence[Point], x: str, y: str, legend: Legend, levels: Sequence[tuple[str, int, float]] = ()
) -> go.Figure:
    """Plot groups of runs by two metrics, lower being better in both.

    Groups are drawn as medians with bars from the lowest to the highest run, and runs as rings. Groups on the Pareto
    front are labelled stars joined by steps.

    Args:
        x, y: names of the metrics.
        legend: names and colours of the kinds of points.
        levels: name, group and y of groups without x, each drawn as a dashed line.
    """
    fig = figure(f"{y} against {x}", x, y, height=520)
    traces: list[dict[str, object]] = []
    lowest = min((v for point in points for v in point.x if v > 0), default=1.0)
    log = max((point.x[2] for point in points), default=0.0) / lowest > 10
    floor = lowest / 2 if log else -math.inf  # position of 0 on a logarithmic axis
    front = sorted((point for point in points if point.front), key=lambda point: point.x[0])
    if len(front) > 1:
        line = {"shape": "hv", "width": 1.5, "dash": "dot", "color": GREY}
        xs, ys = [max(point.x[0], floor) for point in front], [point.y[0] for point in front]
        traces.append(
            {
                "type": "scatter",
                "x": xs,
                "y": ys,
                "mode": "lines",
                "name": "Pareto front",
                "line": line,
                "hoverinfo": "skip",
            }
        )
    for point in points:
        runs = np.asarray(point.runs, dtype=np.float64).reshape(-1, 2)
        if len(runs) > 1:
            traces.append(
                {
                    "type": "scatter",
                    "x": rounded(np.maximum(runs[:, 0], floor)),
                    "y": rounded(runs[:, 1]),
                    "mode": "markers",
                    "showlegend": False,
                    "marker": {"size": 7, "color": legend[point.kind][1], "symbol": "circle-open"},
                    "legendgroup": legend_group(point.kind),
                    "hoverinfo": "skip",
                    "meta": {"group": point.group},
                }
            )
    for point in sorted(points, key=lambda point: point.front):
        colour = legend[point.kind][1]
        thickness = 1.2 if len(points) <= FEW else 0.6
        told = f"{wrapped(point.name)}<br>{y} {_range(point.y)}<br>{x} {_range(point.x)}"
        traces.append(
            {
                "type": "scatter",
                "x": [max(point.x[0], floor)],
                "y": [point.y[0]],
                "error_x": _bars((max(point.x[0], floor), max(point.x[1], floor), point.x[2]), colour, thickness),
                "error_y": _bars(point.y, colour, thickness),
                "mode": "markers+text" if point.front else "markers",
                "text": [f"<b>{point.label}</b>"],
                "textposition": "bottom left",  # no other point can be there
                "textfont": {"size": 14},
                "marker": {
                    "size": 16 if point.front else 10,
                    "color": colour,
                    "symbol": "star" if point.front else "circle",
                },
                "showlegend": False,
                "legendgroup": legend_group(point.kind),
                "hovertemplate": f"{told}{'<br>on the Pareto front' if point.front else ''}<extra></extra>",
                "meta": {"group": point.group},
            }
        )
    traces += legend_traces(legend) if points else []
    ends = [max(v, floor) for point in points for v in point.x] or [0.0, 1.0]
    for name, group, level in levels:
        traces.append(
            {
                "type": "scatter",
                "x": [min(ends), max(ends)],
                "y": [level, level],
                "mode": "lines+text",
                "text": ["", shortened(name, 40)],
                "textposition": "top left",
                "line": {"dash": "dash", "width": 1.2, "color": GREY},
                "showlegend": False,
                "hovertemplate": f"{wrapped(name)}<br>{y} {level:.5g}<extra></extra>",
                "meta": {"group": group},
            }
        )
    if log:
        fig.update_xaxes(log_axis())
    fig.add_traces(traces)  # in one call: separate calls take twice as long
    fig.update_layout(hovermode="closest")
    return fig


def _bars(spread: tuple[float, float, float], colour: str, thickness: float) -> dict[str, object]:
    middle, low, high = spread
    shown = high > low
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - middle],
        "arrayminus": [middle - low],
        "visible": shown,
        "thickness": thickness,
        "width": 0,
        "color": colour,
    }


def _range(spread: tuple[float, float, float]) -> str:
    middle, low, high = spread
    return f"{middle:.5g}" + (f" ({low:.5g} to {high:.5g})" if high > low else "")


def rounded(values: ArrayLike) -> list[float]:
    """Round to five significant digits, which is enough for figures."""
    return [significant(value, 5) for value in np.asarray(values, dtype=np.float64).tolist()]


def shortened(text: str, length: int) -> str:
    """Shorten a text to at most ``length`` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def wrapped(name: str) -> str:
    """Format a name for hover text: escaped and broken into lines."""
    plain = name.replace("&", "&amp;").replace("<", "&lt;").replace("%{", "% {")
    lines, line = [], ""
    for word in plain.split(" "):
        if line and len(line) + len(word) > 48:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    return "<br>".join([*lines, line])
