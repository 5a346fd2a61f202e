"""Parallel coordinates: one line per group of runs, one axis per setting and metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.colors import sample_colorscale

from s15erav3.comparison.legend import GREY
from s15erav3.comparison.scatter import shortened, wrapped
from s15erav3.figures.style import DEPTH, figure


class Axis(NamedTuple):
    """One axis of parallel coordinates."""

    label: str
    places: ArrayLike
    """Position of each of N lines, from 0 at the bottom to 1, NaN where undefined: (N,)."""
    ticks: list[tuple[float, str]]
    """Tick positions and labels."""


def category_axis(label: str, values: Sequence[str], order: Sequence[str]) -> Axis:
    """Build an axis of texts, evenly spaced in the given order from bottom to top."""
    step = max(1, len(order) - 1)
    at = {text: i / step if len(order) > 1 else 0.5 for i, text in enumerate(order)}
    return Axis(label, [at[text] for text in values], [(place, text) for text, place in at.items()])


def number_axis(label: str, values: ArrayLike, *, log: bool | None = None) -> Axis:
    """Build a numeric axis; logarithmic if requested, or if all values are positive and span a factor of 20."""
    table = np.asarray(values, dtype=np.float64)
    finite = table[np.isfinite(table)]
    if not len(finite):
        return Axis(label, np.full(len(table), np.nan), [])
    low, high = float(finite.min()), float(finite.max())
    if low == high:
        return Axis(label, np.where(np.isfinite(table), 0.5, np.nan), [(0.5, f"{low:.5g}")])
    if log is None:
        log = low > 0 and high / low > 20
    scale = np.log10 if log else np.asarray
    start, stop = float(scale(low)), float(scale(high))
    ticks = np.linspace(start, stop, 5)
    shown = [float(10**tick) if log else float(tick) for tick in ticks]
    digits = 5 if (high - low) < 0.05 * abs(high) else 3
    return Axis(
        label,
        (scale(table) - start) / (stop - start),
        [((tick - start) / (stop - start), f"{number:.{digits}g}") for tick, number in zip(ticks, shown, strict=True)],
    )


def parallel(axes: Sequence[Axis], score: ArrayLike, names: Sequence[str], groups: Sequence[int]) -> go.Figure:
    """Plot a line for each of N groups across all axes, coloured by a score, with the lowest drawn last (on top).

    Args:
        score: (N,); lines without one are grey.
        names: hover texts, (N,).
        groups: indices of the groups, (N,).
    """
    scores = np.asarray(score, dtype=np.float64)
    good = np.isfinite(scores)
    low, high = (float(scores[good].min()), float(scores[good].max())) if good.any() else (0.0, 1.0)
    places = np.array([np.asarray(axis.places, dtype=np.float64) for axis in axes])
    # Lines that share a category would hide each other, so each gets its own offset.
    apart = (np.argsort(np.argsort(-np.where(good, scores, np.inf))) / max(1, len(scores) - 1) - 0.5) * 0.03
    fig = figure(
        "Parallel coordinates", "", "", height=max(480, 90 + 24 * max((len(a.ticks) for a in axes), default=0))
    )
    traces: list[dict[str, object]] = []
    for i in np.argsort(np.where(good, -scores, -np.inf), kind="stable"):
        colour = _shade((scores[i] - low) / ((high - low) or 1)) if good[i] else GREY
        traces.append(
            {
                "type": "scatter",
                "x": list(range(len(axes))),
                "y": [None if np.isnan(place) else round(float(place + apart[i]), 4) for place in places[:, i]],
                "mode": "lines+markers",
                "line": {"color": colour, "width": 1.6},
                "marker": {"size": 5},
                "opacity": 0.75,
                "connectgaps": False,
                "showlegend": False,
                "hovertemplate": f"{wrapped(names[i])}<extra></extra>",
                "meta": {"group": int(groups[i])},
            }
        )
    fig.add_traces(traces)
    rule = {"type": "line", "y0": -0.04, "y1": 1.04, "line": {"width": 1, "color": GREY}, "layer": "below"}
    tick = {"showarrow": False, "xanchor": "left", "xshift": 6, "font": {"size": 12}}
    fig.update_layout(
        shapes=[{**rule, "x0": place, "x1": place} for place in range(len(axes))],
        annotations=[
            {**tick, "x": place, "y": at, "text": shortened(wrapped(text), 16), "hovertext": wrapped(text)}
            for place, axis in enumerate(axes)
            for at, text in axis.ticks
        ],
    )
    labels = [axis.label.replace("/", "/<br>").replace(".", ".<br>") for axis in axes]
    fig.update_xaxes(
        range=[-0.15, len(axes) - 0.4],
        tickvals=list(range(len(axes))),
        ticktext=labels,
        tickangle=0,
        side="bottom",
        showgrid=False,
        zeroline=False,
        fixedrange=True,
    )
    fig.update_yaxes(range=[-0.08, 1.08], visible=False, fixedrange=True)
    fig.update_layout(hovermode="closest", hoverdistance=12)
    return fig


def _shade(share: float) -> str:
    return str(sample_colorscale(DEPTH, [min(1.0, max(0.0, float(share)))])[0])
