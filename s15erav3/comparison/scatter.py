"""Groups of runs in the plane of two metrics.

Traces that belong to a group of runs carry its number as ``meta``: ``{"group": 3}``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from s15erav3.figures.style import CATEGORIES, figure
from s15erav3.figures.training import significant

GREY = "#8C8C8C"


class Point(NamedTuple):
    """A group of runs in the plane of two metrics."""

    name: str
    group: int
    x: tuple[float, float, float]
    """Median, lowest, highest."""
    y: tuple[float, float, float]
    kind: str
    """Points of a kind have a colour in common."""
    front: bool
    """On the Pareto front."""
    label: str
    """Stands beside a point of the front."""
    runs: ArrayLike
    """Each run's x and y, (R, 2)."""


def trade_off(points: Sequence[Point], x: str, y: str, levels: Sequence[tuple[str, int, float]] = ()) -> go.Figure:
    """Groups of runs in the plane of two metrics, lower being better in both: medians with bars from the lowest to the
    highest run, the runs as faint dots; those on the Pareto front are stars with their label, joined by steps.

    Args:
        x, y: names of the metrics.
        levels: name, group and y of groups that have no x: a dashed line each.
    """
    fig = figure(f"{y} against {x}", x, y, height=520)
    traces: list[dict[str, object]] = []
    kinds = list(dict.fromkeys(point.kind for point in points))
    colours = {kind: CATEGORIES[i % len(CATEGORIES)] for i, kind in enumerate(kinds)}
    lowest = min((v for point in points for v in point.x if v > 0), default=1.0)
    log = max((point.x[2] for point in points), default=0.0) / lowest > 10
    floor = lowest / 2 if log else -math.inf  # where 0 stands on a logarithmic axis
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
                    "opacity": 0.4,
                    "showlegend": False,
                    "marker": {"size": 5, "color": colours[point.kind]},
                    "hoverinfo": "skip",
                    "meta": {"group": point.group},
                }
            )
    for point in sorted(points, key=lambda point: point.front):
        colour = colours[point.kind]
        told = f"{wrapped(point.name)}<br>{y} {_range(point.y)}<br>{x} {_range(point.x)}"
        traces.append(
            {
                "type": "scatter",
                "x": [max(point.x[0], floor)],
                "y": [point.y[0]],
                "error_x": _bars((max(point.x[0], floor), max(point.x[1], floor), point.x[2]), colour),
                "error_y": _bars(point.y, colour),
                "mode": "markers+text" if point.front else "markers",
                "text": [f"<b>{point.label}</b>"],
                "textposition": "bottom left",  # where no other point can be
                "textfont": {"size": 14},
                "marker": {
                    "size": 15 if point.front else 8,
                    "color": colour,
                    "symbol": "star" if point.front else "circle",
                },
                "showlegend": False,
                "hovertemplate": f"{told}{'<br>on the Pareto front' if point.front else ''}<extra></extra>",
                "meta": {"group": point.group},
            }
        )
    if len(kinds) > 1:
        for kind in kinds:
            traces.append(
                {
                    "type": "scatter",
                    "x": [None],
                    "y": [None],
                    "mode": "markers",
                    "marker": {"size": 9, "color": colours[kind]},
                    "name": kind,
                }
            )
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
        fig.update_xaxes(type="log", dtick="D2")
    fig.add_traces(traces)  # at once, as a call for each takes twice as long
    fig.update_layout(hovermode="closest")
    return fig


def _bars(spread: tuple[float, float, float], colour: str) -> dict[str, object]:
    middle, low, high = spread
    shown = high > low
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - middle],
        "arrayminus": [middle - low],
        "visible": shown,
        "thickness": 1.2,
        "width": 0,
        "color": colour,
    }


def _range(spread: tuple[float, float, float]) -> str:
    middle, low, high = spread
    return f"{middle:.5g}" + (f" ({low:.5g} to {high:.5g})" if high > low else "")


def rounded(values: ArrayLike) -> list[float]:
    """To five significant digits, as figures need no more."""
    return [significant(value, 5) for value in np.asarray(values, dtype=np.float64).tolist()]


def shortened(text: str, length: int) -> str:
    """A text of no more than so many characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def wrapped(name: str) -> str:
    """A name for the box under the pointer: no markup of its own, broken into lines."""
    plain = name.replace("&", "&amp;").replace("<", "&lt;").replace("%{", "% {")
    lines, line = [], ""
    for word in plain.split(" "):
        if line and len(line) + len(word) > 48:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    return "<br>".join([*lines, line])
