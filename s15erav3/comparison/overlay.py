"""The curves of many runs on one pair of axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from s15erav3.comparison.scatter import GREY, rounded, wrapped
from s15erav3.figures.style import figure
from s15erav3.figures.training import thinned


class Line(NamedTuple):
    """One curve among many. Shapes: S points; those that are not finite are left out."""

    name: str
    group: int
    x: ArrayLike
    """(S,)."""
    y: ArrayLike
    """(S,)."""
    colour: str
    bold: bool
    """Drawn over the others, with an entry in the legend."""
    dash: str = "solid"


def overlay(
    lines: Sequence[Line], x: str, y: str, *, log: bool = False, end: bool = False, at_most: int = 150
) -> go.Figure:
    """Many curves on one pair of axes.

    Args:
        end: show the second half of x, and no more of y than that needs.
        log: a logarithmic y axis, if all values are above 0.
        at_most: points of each curve that are drawn.
    """
    fig = figure(f"{y} over {x}", x, y, height=460)
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
                "x": [int(value) for value in xs[kept]],
                "y": rounded(ys[kept]),
                "mode": "lines" if len(kept) > 1 else "markers",
                "opacity": 1 if line.bold else 0.3,
                "line": {"color": line.colour, "width": 2.4 if line.bold else 1, "dash": line.dash},
                "showlegend": line.bold and line.colour != GREY,
                "hovertemplate": f"{wrapped(line.name)}<br>%{{y}} at %{{x:,}}<extra></extra>",
                "legendgroup": str(line.group),
                "meta": {"group": line.group},
            }
        )
    fig.add_traces(traces)
    fig.update_layout(hovermode="closest", xaxis={"rangemode": "tozero"})
    log = log and 0 < lowest < math.inf
    if log:
        fig.update_yaxes(type="log", dtick="D2")
    if end and shown:
        low, high = (math.log10(v) if log else v for v in (min(shown), max(shown)))
        room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        fig.update_layout(xaxis={"range": [half * 0.98, half * 2.02]}, yaxis={"range": [low - room, high + room]})
    return fig
