"""Figures of expert specialisation and co-activation.

Shapes: L MoE layers, V values of a domain, E routed experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from s15erav3.figures.heatmap import Floats, height_of
from s15erav3.figures.style import expert_axis, expert_names, figure, layer_names

WIDEST = 3.0
"""Colour scale of "times its share": from 1 / 2**3 to 2**3."""
TIMES = ("1/8", "1/4", "1/2", "1", "2", "4", "8")


class Lift(NamedTuple):
    """Preference of experts for values."""

    times: Floats
    """Expert's share of the value's slots divided by its share of all slots, (..., V, E); NaN if none is expected."""
    expected: Floats
    """Expected slots of the value at the expert under independence, (..., V, E)."""


def lift(slots: ArrayLike) -> Lift:
    """Compute the lift from slot counts (..., V, E): 1.0 is the same share of a value as of all slots."""
    counts = np.asarray(slots, dtype=np.float64)
    everything = counts.sum(axis=(-2, -1), keepdims=True)
    expected = counts.sum(axis=-1, keepdims=True) * counts.sum(axis=-2, keepdims=True) / np.maximum(everything, 1)
    return Lift(np.divide(counts, expected, out=np.full_like(counts, np.nan), where=expected > 0), expected)


def information_by_layer(values: Mapping[str, ArrayLike], layers: Sequence[int], title: str, y: str) -> go.Figure:
    """Plot the information of experts about token values: one value per layer for each domain, (L,)."""
    fig = figure(title, "layer", y)
    for domain, numbers in values.items():
        fig.add_scatter(
            name=domain,
            x=layer_names(layers),
            y=np.asarray(numbers, dtype=np.float64).round(4).tolist(),
            mode="lines+markers",
            hovertemplate="%{y}<extra>%{fullData.name}</extra>",
        )
    fig.update_layout(hovermode="x unified", showlegend=True, yaxis={"rangemode": "tozero"})
    return fig


def lift_heatmap(slots: ArrayLike, values: Sequence[str], title: str, *, at_most: int = 24) -> go.Figure:
    """Plot values x experts: the lift of slot counts (V, E), most frequent values first.

    Args:
        at_most: maximum number of values shown.
    """
    counts = np.asarray(slots, dtype=np.float64)
    times = lift(counts).times
    order = np.argsort(-counts.sum(axis=-1), kind="stable")[:at_most]
    order = order[counts[order].sum(axis=-1) > 0]
    return _squares(
        _doublings(times[order]),
        [values[i] for i in order],
        title,
        what="times its share",
        customdata=times[order].round(2).tolist(),
        hovertemplate="%{x} takes %{customdata} times its share of %{y}<extra></extra>",
    )


def coactivation_heatmap(share: ArrayLike, even: float | None, title: str) -> go.Figure:
    """Plot the fraction of the tokens of expert i (row) that also use expert j (column): (E, E).

    Args:
        even: value expected from uniformly random routing, the middle of the colour scale; ``None``, where it is
            not defined, uses the mean. The diagonal, always 1, is omitted.
    """
    company = np.array(share, dtype=np.float64)
    np.fill_diagonal(company, np.nan)
    others = company[np.isfinite(company)]
    middle = even if even is not None else float(others.mean()) if len(others) else 0.0
    names = expert_names(len(company))
    fig = _squares(
        _doublings(company / max(middle, 1e-12)),
        names,
        title,
        what="times the even share",
        customdata=(100 * company).round(1).tolist(),
        hovertemplate="%{customdata} % of the tokens of %{y} also use %{x}<extra></extra>",
    )
    fig.update_layout(height=min(680, 240 + 22 * len(names)), xaxis={"title": {"text": "also used"}})
    fig.update_yaxes(expert_axis(len(names)) | {"title": {"text": "expert"}, "ticktext": None})
    return fig


def _doublings(times: Floats) -> Floats:
    """Return binary logarithms, clipped to the colour scale."""
    found: Floats = np.log2(np.clip(times, 2.0**-WIDEST, 2.0**WIDEST))
    return found


def _squares(
    z: Floats,
    names: Sequence[str],
    title: str,
    *,
    what: str,
    customdata: list[list[float]],
    hovertemplate: str,
) -> go.Figure:
    """Plot a heatmap of doublings z; row names are shortened on the axis and complete in the hover text."""
    fig = figure(title, "expert", "", height=height_of(len(names)), subtitle=what)
    fig.add_heatmap(
        z=[[round(v, 3) if np.isfinite(v) else None for v in row] for row in z.tolist()],
        x=expert_names(z.shape[-1]),
        y=list(names),
        customdata=customdata,
        coloraxis="coloraxis",
        hovertemplate=hovertemplate,
        hoverongaps=False,
        xgap=int(len(names) <= 32),
        ygap=int(len(names) <= 32),
    )
    fig.update_xaxes(expert_axis(z.shape[-1]))
    short = [name if len(name) <= 18 else name[:17] + "\u2026" for name in names]
    fig.update_yaxes(
        showgrid=False, zeroline=False, autorange="reversed", type="category", tickvals=list(names), ticktext=short
    )
    ticks = {"tickvals": np.arange(-WIDEST, WIDEST + 1).tolist(), "ticktext": list(TIMES)}
    fig.update_layout(coloraxis={"cmin": -WIDEST, "cmid": 0, "cmax": WIDEST, "colorbar": ticks})
    return fig
