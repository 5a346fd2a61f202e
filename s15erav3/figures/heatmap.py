"""Layers x experts as a heatmap, at one moment or with a slider over steps.

Shapes: S steps, L MoE layers, E routed experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from s15erav3.figures.style import DIVERGING, figure

Floats = NDArray[np.float64]


def load_heatmap(load: ArrayLike, layers: Sequence[int], title: str = "Load of each expert") -> go.Figure:
    """Loads (L, E) over the layer's mean: 1.0 is the fair share, blue less, orange more."""
    return _heatmap(_shares(load), layers, title, "share", middle=1.0)


def bias_heatmap(bias: ArrayLike, layers: Sequence[int], title: str = "Bias of each expert") -> go.Figure:
    """Biases (L, E): a positive one makes the expert chosen more often."""
    return _heatmap(np.asarray(bias, dtype=float), layers, title, "bias", middle=0.0)


def load_over_steps(load: ArrayLike, layers: Sequence[int], steps: Sequence[int]) -> go.Figure:
    """Loads (S, L, E) as one heatmap whose frames are the steps, with a slider; the last step is shown first."""
    shares = _shares(load)
    fig = _heatmap(shares[-1], layers, "Load of each expert, by step", "share", middle=1.0)
    names = [str(int(step)) for step in steps]
    fig.frames = [
        go.Frame(name=name, data=[{"type": "heatmap", "z": moment.round(4)}])
        for name, moment in zip(names, shares, strict=True)
    ]
    moves = [
        {"label": name, "method": "animate", "args": [[name], {"mode": "immediate", "frame": {"redraw": True}}]}
        for name in names
    ]
    fig.update_layout(sliders=[{"steps": moves, "active": len(names) - 1, "currentvalue": {"prefix": "step "}}])
    return fig


def _shares(load: ArrayLike) -> Floats:
    counts = np.asarray(load, dtype=np.float64)
    shares: Floats = counts / np.maximum(counts.mean(axis=-1, keepdims=True), 1e-12)
    return shares


def _heatmap(values: Floats, layers: Sequence[int], title: str, what: str, middle: float) -> go.Figure:
    """Values (L, E); the scale is as wide on either side of ``middle``, never narrower than a tenth."""
    reach = max(0.1, float(np.abs(values - middle).max(initial=0.0)))
    reach = min(reach, 1.0) if middle else reach  # a load cannot be below 0; what is above twice its share is full
    fig = figure(title, "expert", "layer", height=max(220, 110 + 34 * len(layers)))
    fig.add_heatmap(
        z=values.round(4),
        x=[f"E{expert:02d}" for expert in range(values.shape[-1])],
        y=[f"L{layer:02d}" for layer in layers],
        zmid=middle,
        zmin=middle - reach,
        zmax=middle + reach,
        colorscale=DIVERGING,
        colorbar={"title": {"text": what}, "thickness": 12},
        hovertemplate="%{y} %{x}: " + what + " %{z:.3f}<extra></extra>",
        xgap=1,
        ygap=1,
    )
    fig.update_yaxes(autorange="reversed")
    return fig
