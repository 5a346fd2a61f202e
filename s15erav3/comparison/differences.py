"""Effect of one setting on a metric: pairwise differences or, for many values, a dot per group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from s15erav3.comparison.legend import GREY
from s15erav3.comparison.scatter import rounded, shortened, wrapped
from s15erav3.figures.style import CATEGORIES, figure, log_axis
from s15erav3.figures.training import significant


def dots(
    title: str,
    rows: Sequence[tuple[str, Sequence[float], Sequence[str]]],
    x: str,
    zero: str,
    *,
    colour: str = CATEGORIES[0],
) -> go.Figure:
    """Plot differences, one row per comparison: a ring for each pair, a diamond at the median, a line at zero.

    Args:
        rows: name, differences and common settings of each pair; the first row is on top.
        x: name of the metric.
        zero: label of the line at 0.
    """
    fig = figure(title, f"{x}, difference to {shortened(zero, 40)}", "", height=130 + 26 * len(rows))
    names = [shortened(name, 28) for name, _, _ in rows]
    for at, (name, differences, contexts) in enumerate(rows):
        fig.add_scatter(
            x=rounded(np.asarray(differences, dtype=np.float64)),
            y=[at] * len(differences),
            mode="markers",
            marker={"size": 8, "color": colour, "symbol": "circle-open"},
            showlegend=False,
            hovertemplate=[f"{wrapped(f'{name}: {context}')}<br>%{{x:+.4g}}<extra></extra>" for context in contexts],
        )
        middle = float(np.median(differences))
        fig.add_scatter(
            x=[significant(middle, 5)],
            y=[at],
            mode="markers",
            marker={"size": 11, "symbol": "diamond", "color": colour},
            showlegend=False,
            hovertemplate=f"{wrapped(name)}: median %{{x:+.4g}} of {len(differences)}<extra></extra>",
        )
    fig.add_shape(type="line", x0=0, x1=0, yref="paper", y0=0, y1=1, line={"dash": "dot", "color": GREY})
    fig.update_xaxes(rangemode="tozero")
    fig.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=names, range=[len(rows) - 0.4, -0.6], showgrid=True, zeroline=False
    )
    fig.update_layout(hovermode="closest")
    return fig


def against(
    title: str, values: ArrayLike, metric: ArrayLike, y: str, names: Sequence[str], groups: Sequence[int]
) -> go.Figure:
    """Plot a metric against a setting with many numeric values: a dot for each of N groups.

    Args:
        values, metric: (N,); the axis of the values is logarithmic if all are positive and span a factor of 20.
        names, groups: hover text and index of each group, (N,).
    """
    xs, ys = np.asarray(values, dtype=np.float64), np.asarray(metric, dtype=np.float64)
    fig = figure(title, title, y, height=340)
    fig.add_traces(
        [
            {
                "type": "scatter",
                "x": [x],
                "y": rounded([at]),
                "mode": "markers",
                "marker": {"size": 7, "color": CATEGORIES[0]},
                "showlegend": False,
                "hovertemplate": f"{wrapped(name)}<br>{y} %{{y}}<extra></extra>",
                "meta": {"group": group},
            }
            for x, at, name, group in zip(xs.tolist(), ys.tolist(), names, groups, strict=True)
            if np.isfinite(x) and np.isfinite(at)
        ]
    )
    finite = xs[np.isfinite(xs)]
    if len(finite) and finite.min() > 0 and finite.max() / finite.min() > 20:
        fig.update_xaxes(log_axis())
    fig.update_layout(hovermode="closest")
    return fig
