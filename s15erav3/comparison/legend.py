"""A legend of few colours for many groups of runs, which a page may exchange for another.

Traces of the kind at place 2 of the legend are in Plotly's ``legendgroup`` "kind2", so that a click hides them all; the
entries themselves carry their place as ``meta``: ``{"legend": 2}``.
"""

from __future__ import annotations

from collections.abc import Sequence

from s15erav3.figures.style import CATEGORIES

GREY = "#8C8C8C"
COLOURS = tuple(colour for colour in CATEGORIES if colour != GREY)
MOST = len(COLOURS) + 1
"""Entries of a legend: the eye tells no more colours apart. Grey is for what is left over."""

Legend = Sequence[tuple[str, str]]
"""Names and colours, ``MOST`` at most."""


def legend_group(kind: int) -> str:
    """Of the traces of one kind, and of its entry."""
    return f"kind{kind}"


def legend_traces(legend: Legend) -> list[dict[str, object]]:
    """An entry for each kind, and unseen ones up to ``MOST``; one kind alone needs no legend."""
    padded = [*legend, *[("", GREY)] * (MOST - len(legend))]
    return [
        {
            "type": "scatter",
            "x": [None],
            "y": [None],
            "mode": "markers",
            "marker": {"size": 10, "color": colour},
            "name": name,
            "visible": 1 < len(legend) > kind,
            "showlegend": True,
            "legendgroup": legend_group(kind),
            "meta": {"legend": kind},
        }
        for kind, (name, colour) in enumerate(padded)
    ]
