"""Load balance and per-expert curves over the steps of a training run.

Shapes: S steps, L MoE layers, E routed experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from s15erav3.figures.heatmap import Floats, centred_heatmap, fair_shares
from s15erav3.figures.style import expert_axis, expert_colour, expert_names, figure, layer_colours, layer_names
from s15erav3.figures.training import Series, curves

FLOOR = "random floor"
FOLLOWED = 16
"""Maximum number of distinguishable lines, with the help of dashes."""


def maxvio(load: ArrayLike) -> Floats:
    """Compute (max - mean) / mean of loads (..., E) -> (...,); 0 where all loads are 0."""
    violation: Floats = np.maximum(fair_shares(load).max(axis=-1) - 1, 0)
    return violation


def maxvio_by_layer(
    load: ArrayLike,
    layers: Sequence[int],
    steps: ArrayLike,
    floor: float | None = None,
    tokens: ArrayLike | None = None,
) -> go.Figure:
    """Plot MaxVio per layer from loads (S, L, E), with the floor expected from uniformly random routing."""
    violations, at = maxvio(load), np.asarray(steps)
    names, colours = layer_names(layers), layer_colours(len(layers))
    series = [
        Series(name, at, violations[:, i], tokens, colour=colour)
        for i, (name, colour) in enumerate(zip(names, colours, strict=True))
    ]
    fig = curves("MaxVio of each layer", "MaxVio", [*series, *floor_line(floor, at)], log=True)
    if len(layers) > 8:  # a legend of thirty entries would leave no room for the curves
        fig.update_traces(showlegend=False, line_width=1, selector=lambda trace: trace.name != FLOOR)
        fig.update_layout(
            hovermode="closest", title={"subtitle": {"text": "first layers light blue, last ones orange"}}
        )
    return fig


def floor_line(floor: float | None, steps: ArrayLike) -> list[Series]:
    """Return the floor as a dashed line from the first step to the last; nothing for ``None``."""
    at = np.asarray(steps, dtype=np.float64)
    if not floor or not len(at):
        return []
    return [Series(FLOOR, [at.min(), at.max()], [floor, floor], dash="dash", colour="#8C8C8C")]


def experts_over_time(values: ArrayLike, steps: ArrayLike, title: str, y: str, fair: float) -> go.Figure:
    """Plot the experts of one layer: one line each, or rows of a heatmap if there are too many.

    Args:
        values: loads relative to the fair share, or biases, (S, E).
        y: title of the values; ``fair``: their neutral value, 1 or 0.
    """
    table, at = np.asarray(values, dtype=np.float64), np.asarray(steps).astype(int).tolist()
    return (_rows if table.shape[1] > FOLLOWED else _lines)(table, at, title, y, fair)


def _lines(table: Floats, at: list[int], title: str, y: str, fair: float) -> go.Figure:
    fig = figure(title, "step", y, height=440)
    digits = 2 if fair else 3 - int(np.floor(np.log10(max(1e-6, float(np.abs(table).max(initial=0.0))))))
    for e, name in enumerate(expert_names(table.shape[1])):
        fig.add_scatter(
            name=name,
            x=at,
            y=table[:, e].round(digits).tolist(),
            mode="lines" if len(at) > 1 else "markers",
            line={"color": expert_colour(e), "width": 1.6, "dash": "solid" if e < 8 else "dash"},
            hovertemplate=f"{name} at step %{{x}}: %{{y}}<extra></extra>",
        )
    fig.add_shape(type="line", xref="paper", x0=0, x1=1, y0=fair, y1=fair, line={"dash": "dot", "color": "#8C8C8C"})
    fig.update_layout(showlegend=True, hovermode="closest", xaxis={"range": [0, 1.01 * max(at, default=1)]})
    return fig


def _rows(table: Floats, at: list[int], title: str, y: str, fair: float) -> go.Figure:
    names = expert_names(table.shape[1])
    fig = centred_heatmap(table.T, [str(step) for step in at], names, title, ("step", "expert"), y, fair)
    fig.update_layout(height=min(660, 200 + 9 * len(names)))
    fig.update_traces(xgap=0, ygap=0, hovertemplate=f"%{{y}} at step %{{x}}: {y} %{{z}}<extra></extra>")
    fig.update_xaxes(type="category", nticks=8, tickangle=0)
    fig.update_yaxes(expert_axis(len(names)))
    return fig
