"""Curves of many runs in one plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from s15erav3.comparison.legend import Legend, legend_group, legend_traces
from s15erav3.comparison.scatter import rounded, wrapped
from s15erav3.figures.ruler import ruler
from s15erav3.figures.style import figure, log_axis
from s15erav3.figures.training import thinned


class Line(NamedTuple):
    """One curve among many. Shapes: S points; non-finite points are omitted."""

    name: str
    group: int
    x: ArrayLike
    """(S,)."""
    y: ArrayLike
    """(S,)."""
    kind: int
    """Index into the legend, which determines the colour."""
    bold: bool
    """Whether the curve is drawn on top of the others."""
    dash: str = "solid"


def overlay(
    lines: Sequence[Line],
    over: str,
    y: str,
    legend: Legend,
    *,
    log: bool = False,
    end: bool = False,
    at_most: int = 150,
) -> go.Figure:
    """Plot many curves on the same axes.

    Args:
        over: ruler of the x axis.
        legend: names and colours of the kinds of lines.
        end: zoom to the second half of x, and to the range of y there.
        log: use a logarithmic y axis if all values are above 0.
        at_most: maximum points drawn per curve.
    """
    rule = ruler(over, [line.x for line in lines])
    fig = figure(f"{y} over {over}", rule.title, y, height=460)
    half = max((float(np.nanmax(line.x)) for line in lines if np.isfinite(line.x).any()), default=0.0) / 2
    traces: list[dict[str, object]] = []
    lowest, shown = math.inf, []
    for line in sorted(lines, key=lambda line: line.bold):
        xs, ys = np.asarray(line.x, dtype=np.float64), np.asarray(line.y, dtype=np.float64)
        kept = np.flatnonzero(np.isfinite(xs) & np.isfinite(ys))
        kept = kept[thinned(ys[kept], at_most)] if len(kept) else kept
        if not len(kept):
            continue
        lowest = min(lowest, float(ys[kept].min()))
        shown += ys[kept][xs[kept] >= half].tolist()
        traces.append(
            {
                "type": "scatter",
                "name": line.name,
                "x": rule.places(xs[kept]),
                "y": rounded(ys[kept]),
                "mode": "lines" if len(kept) > 1 else "markers",
                "opacity": 1 if line.bold else 0.45,
                "line": {"color": legend[line.kind][1], "width": 2.2 if line.bold else 1, "dash": line.dash},
                "marker": {"color": legend[line.kind][1]},
                "showlegend": False,
                "hovertemplate": f"{wrapped(line.name)}<br>%{{y}} at %{{x:{rule.form}}} {rule.unit}<extra></extra>",
                "legendgroup": legend_group(line.kind),
                "meta": {"group": line.group},
            }
        )
    fig.add_traces([*traces, *(legend_traces(legend) if traces else [])])
    fig.update_layout(hovermode="closest", xaxis={"rangemode": "tozero", "exponentformat": rule.exponent})
    log = log and 0 < lowest < math.inf
    if log:
        fig.update_yaxes(log_axis())
    if end and shown:
        low, high = (math.log10(v) if log else v for v in (min(shown), max(shown)))
        room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        fig.update_layout(
            xaxis={"range": [half * 0.98 / rule.per, half * 2.02 / rule.per]},
            yaxis={"range": [low - room, high + room]},
        )
    return fig
