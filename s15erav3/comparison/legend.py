"""A legend with few colours for many groups of runs, which the page can switch.

Traces of the kind at index 2 of the legend are in Plotly's ``legendgroup`` "kind2", so that a click hides them all; the
legend entries have their index in ``meta``: ``{"legend": 2}``.
"""

from __future__ import annotations

from collections.abc import Sequence

from s15erav3.figures.style import CATEGORIES

GREY = "#8C8C8C"
COLOURS = tuple(colour for colour in CATEGORIES if colour != GREY)
MOST = len(COLOURS) + 1
"""Maximum entries of a legend, limited by distinguishable colours. Grey is for the rest."""

Legend = Sequence[tuple[str, str]]
"""Names and colours, at most ``MOST``."""


def legend_group(kind: int) -> str:
    """Return the ``legendgroup`` of the traces of one kind and of its legend entry."""
    return f"kind{kind}"


def legend_traces(legend: Legend) -> list[dict[str, object]]:
    """Return an entry per kind, and hidden ones up to ``MOST``; a single kind needs no legend."""
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
