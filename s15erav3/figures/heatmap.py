"""Layers x experts as a heatmap, at one moment or with a slider over steps.

Shapes: S steps, L MoE layers, E routed experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from s15erav3.figures.style import expert_axis, expert_names, figure, layer_names

Floats = NDArray[np.float64]


def load_heatmap(load: ArrayLike, layers: Sequence[int], title: str = "Load of each expert") -> go.Figure:
    """Loads (L, E) over the layer's mean: 1.0 is the fair share, blue less, orange more."""
    shares = fair_shares(load)
    return _heatmap(shares, layers, title, "load over the fair share", 1.0)


def bias_heatmap(bias: ArrayLike, layers: Sequence[int], title: str = "Bias of each expert") -> go.Figure:
    """Biases (L, E): a positive one makes the expert chosen more often."""
    biases = np.asarray(bias, dtype=np.float64)
    return _heatmap(biases, layers, title, "bias", 0.0)


def load_over_steps(
    load: ArrayLike, layers: Sequence[int], steps: Sequence[float], title: str = "Load of each expert, by step"
) -> go.Figure:
    """Loads (S, L, E) as one heatmap whose frames are the steps, with a slider; the last step is shown first."""
    shares = fair_shares(load)
    fig = _heatmap(shares[-1], layers, title, "load over the fair share", 1.0, _reach(shares, 1.0))
    return _with_frames(fig, shares, steps)


def bias_over_steps(
    bias: ArrayLike, layers: Sequence[int], steps: Sequence[float], title: str = "Bias of each expert, by step"
) -> go.Figure:
    """Biases (S, L, E) as :func:`load_over_steps` shows loads; all steps share one scale."""
    biases = np.asarray(bias, dtype=np.float64)
    return _with_frames(_heatmap(biases[-1], layers, title, "bias", 0.0, _reach(biases, 0.0)), biases, steps)


def fair_shares(load: ArrayLike) -> Floats:
    """Loads (..., E) over their mean; 0 where a layer had no token at all."""
    counts = np.asarray(load, dtype=np.float64)
    shares: Floats = counts / np.maximum(counts.mean(axis=-1, keepdims=True), 1e-12)
    return shares


def height_of(rows: int) -> int:
    """Pixels for a heatmap of so many rows: rows of 30, thinner ones where there are many."""
    return 200 + min(30 * rows, 90 + 16 * rows)


def _reach(values: Floats, middle: float) -> float:
    """How far from the middle the colours go, on either side; never so little that noise looks like a pattern.

    A load cannot be below 0, and what is above twice its share is full: a single expert with everything would leave
    no colour for the rest.
    """
    finite = np.abs(values[np.isfinite(values)] - middle)
    reach = float(finite.max(initial=0.0))
    return min(max(reach, 0.1), 1.0) if middle else max(reach, 1e-3)


def _rounded(values: Floats, reach: float) -> list[list[float | None]]:
    """As many digits as the eye and the pointer can use, and no more: pages hold many of them."""
    digits = max(2, 3 - int(np.floor(np.log10(reach))))
    return [[round(v, digits) if np.isfinite(v) else None for v in row] for row in values.tolist()]


def centred_heatmap(
    values: Floats,
    x: Sequence[str],
    y: Sequence[str],
    title: str,
    axes: tuple[str, str],
    what: str,
    middle: float,
    reach: float | None = None,
) -> go.Figure:
    """Values (rows, columns) in colours that go ``reach`` to either side of ``middle``.

    Args:
        x, y: names of the columns and of the rows, first row on top.
        axes: titles of the two axes; ``what``: of the colours.
        reach: ``None`` suits the values.
    """
    reach = _reach(values, middle) if reach is None else reach
    fig = figure(title, *axes, height=height_of(len(y)), subtitle=what)
    fig.add_heatmap(
        z=_rounded(values, reach),
        x=list(x),
        y=list(y),
        coloraxis="coloraxis",
        hovertemplate="%{y} %{x}: " + what + " %{z}<extra></extra>",
        xgap=1,
        ygap=1,
    )
    fig.update_xaxes(showgrid=False, zeroline=False)
    fig.update_yaxes(showgrid=False, zeroline=False, autorange="reversed")
    fig.update_layout(coloraxis={"cmin": middle - reach, "cmid": middle, "cmax": middle + reach})
    return fig


def _heatmap(
    values: Floats, layers: Sequence[int], title: str, what: str, middle: float, reach: float | None = None
) -> go.Figure:
    experts = values.shape[-1]
    axes = ("expert", "layer")
    fig = centred_heatmap(values, expert_names(experts), layer_names(layers), title, axes, what, middle, reach)
    fig.update_xaxes(expert_axis(experts))
    return fig


def _with_frames(fig: go.Figure, values: Floats, steps: Sequence[float]) -> go.Figure:
    """Give the heatmap a frame for each of values (S, L, E), and Plotly's own slider over them."""
    reach = float(fig.layout.coloraxis.cmax - fig.layout.coloraxis.cmid)
    names = [str(int(step)) for step in steps]
    fig.frames = [
        go.Frame(name=name, data=[{"type": "heatmap", "z": _rounded(moment, reach)}])
        for name, moment in zip(names, values, strict=True)
    ]
    moves = [
        {"label": name, "method": "animate", "args": [[name], {"mode": "immediate", "frame": {"redraw": True}}]}
        for name in names
    ]
    fig.update_layout(sliders=[{"steps": moves, "active": len(names) - 1, "currentvalue": {"prefix": "step "}}])
    return fig
