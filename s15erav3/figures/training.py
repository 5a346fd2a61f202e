"""Curves of a training over its steps, tokens, FLOPs or time, with the tokens seen in the hover text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from s15erav3.figures.ruler import STEPS, TOKENS, ruler
from s15erav3.figures.style import figure, log_axis

Floats = NDArray[np.float64]
FEW = 20
"""Curves with up to this many points have markers."""


class Series(NamedTuple):
    """One curve. Shapes: S points; non-finite points are omitted."""

    name: str
    x: ArrayLike
    """Steps, or what another ruler measures, (S,)."""
    values: ArrayLike
    """(S,)."""
    tokens: ArrayLike | None = None
    """Tokens seen up to each point, (S,)."""
    dash: str = "solid"
    colour: str | None = None


def curves(
    title: str,
    y: str,
    series: Sequence[Series],
    *,
    over: str = STEPS,
    log: bool = False,
    from_zero: bool = False,
    at_most: int = 1000,
    digits: int = 5,
) -> go.Figure:
    """Plot curves with shared axes.

    Args:
        y: title of the y axis, with its unit.
        over: ruler of the x axis.
        log: use a logarithmic y axis if all values are above 0.
        from_zero: start the y axis at 0.
        at_most: maximum points drawn per curve; see :func:`thinned`.
        digits: significant digits kept.
    """
    rule = ruler(over, [one.x for one in series])
    fig = figure(title, rule.title, y)
    lowest = np.inf
    for one in series:
        xs, values = np.asarray(one.x, dtype=np.float64), np.asarray(one.values, dtype=np.float64)
        good = np.isfinite(values) & np.isfinite(xs)
        kept = np.flatnonzero(good)[thinned(values[good], at_most)]
        if not len(kept):
            continue
        lowest = min(lowest, float(values[kept].min()))
        text = None
        if one.tokens is not None and over != TOKENS:
            seen = np.asarray(one.tokens, dtype=np.float64)[kept]
            text = [f"{int(t):,} tokens" if np.isfinite(t) else "" for t in seen]
        fig.add_scatter(
            name=one.name,
            x=rule.places(xs[kept]),
            y=[significant(value, digits) for value in values[kept].tolist()],
            text=text,
            mode="lines+markers" if len(kept) <= FEW and one.dash == "solid" else "lines",
            line={"width": 1.8, "dash": one.dash} | ({"color": one.colour} if one.colour else {}),
            hovertemplate="%{y}" + (" at %{text}" if text else "") + "<extra>%{fullData.name}</extra>",
        )
    fig.update_layout(hovermode="x unified", showlegend=len(series) > 1)
    fig.update_xaxes(exponentformat=rule.exponent, hoverformat=rule.form)
    if fig.data:
        fig.update_xaxes(range=[0, 1.01 * max(max(trace.x) for trace in fig.data)])
    if from_zero:
        fig.update_yaxes(rangemode="tozero")
    if log and 0 < lowest < np.inf:
        fig.update_yaxes(log_axis())
    return fig


def thinned(values: Floats, at_most: int) -> NDArray[np.intp]:
    """Return the indices of values (S,) to draw.

    These are all, or the first, the last, and the lowest and highest of each interval, so that no spike is lost.
    """
    if len(values) <= at_most:
        return np.arange(len(values))
    stretches = np.array_split(np.arange(len(values)), max(1, at_most // 2 - 1))
    ends = [[s[values[s].argmin()], s[values[s].argmax()]] for s in stretches]
    return np.unique(np.concatenate([*ends, [0, len(values) - 1]]))


def significant(value: float, digits: int) -> float:
    """Round a number to significant digits."""
    return float(f"{value:.{digits}g}")
