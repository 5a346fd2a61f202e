"""Heatmaps of layers x experts, at one step or with a slider over steps.

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
    """Plot loads (L, E) relative to the layer's mean: 1.0 is the fair share, blue is less, orange more."""
    shares = fair_shares(load)
    return _heatmap(shares, layers, title, "load over the fair share", 1.0)


def bias_heatmap(bias: ArrayLike, layers: Sequence[int], title: str = "Bias of each expert") -> go.Figure:
    """Plot biases (L, E): a positive bias makes the expert chosen more often."""
    biases = np.asarray(bias, dtype=np.float64)
    return _heatmap(biases, layers, title, "bias", 0.0)


def change_heatmap(change: ArrayLike, layers: Sequence[int], title: str) -> go.Figure:
    """Plot changes of bits per byte without each expert, (L, E): orange costs more, blue less."""
    return _heatmap(np.asarray(change, dtype=np.float64), layers, title, "bits per byte more", 0.0)


def load_over_steps(
    load: ArrayLike, layers: Sequence[int], steps: Sequence[float], title: str = "Load of each expert, by step"
) -> go.Figure:
    """Plot loads (S, L, E) as a heatmap with one frame per step and a slider; initially at the last step."""
    shares = fair_shares(load)
    fig = _heatmap(shares[-1], layers, title, "load over the fair share", 1.0, _reach(shares, 1.0))
    return _with_frames(fig, shares, steps)


def bias_over_steps(
    bias: ArrayLike, layers: Sequence[int], steps: Sequence[float], title: str = "Bias of each expert, by step"
) -> go.Figure:
    """Plot biases (S, L, E) like :func:`load_over_steps`; all steps share one scale."""
    biases = np.asarray(bias, dtype=np.float64)
    return _with_frames(_heatmap(biases[-1], layers, title, "bias", 0.0, _reach(biases, 0.0)), biases, steps)


def fair_shares(load: ArrayLike) -> Floats:
    """Return loads (..., E) divided by their mean; 0 where a layer has no tokens."""
    counts = np.asarray(load, dtype=np.float64)
    shares: Floats = counts / np.maximum(counts.mean(axis=-1, keepdims=True), 1e-12)
    return shares


def height_of(rows: int) -> int:
    """Return the height in pixels of a heatmap: 30 per row, less if there are many."""
    return 200 + min(30 * rows, 90 + 16 * rows)


def _reach(values: Floats, middle: float) -> float:
    """Return the half-range of the colour scale around the middle. It has a minimum, so that noise is not amplified.

    A load cannot be below 0, and the scale saturates at twice the share: otherwise a single expert with all tokens
    would leave no contrast for the others.
    """
    finite = np.abs(values[np.isfinite(values)] - middle)
    reach = float(finite.max(initial=0.0))
    return min(max(reach, 0.1), 1.0) if middle else max(reach, 1e-3)


def _rounded(values: Floats, reach: float) -> list[list[float | None]]:
    """Round to the visible digits, to keep pages small."""
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
    """Plot values (rows, columns) on a colour scale of ``middle`` plus or minus ``reach``.

    Args:
        x, y: names of the columns and rows, first row on top.
        axes: titles of the two axes; ``what``: title of the colour scale.
        reach: half-range; ``None`` derives it from the values.
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
    """Add a frame per step of values (S, L, E) to the heatmap, with Plotly's slider."""
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
