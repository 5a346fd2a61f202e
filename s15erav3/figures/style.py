"""Common style of all figures: colour-blind safe colours for light and dark backgrounds."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

# The eight colours of Okabe and Ito (2008) without black, which is invisible on dark backgrounds, and with a yellow
# that is visible on light ones.
CATEGORIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C", "#B3A100")
# The same for dark backgrounds, where the darker ones would be hard to see as dots and thin lines.
ON_DARK = {
    "#0072B2": "#3D94DD",
    "#009E73": "#1FB388",
    "#56B4E9": "#8FD0F5",
    "#D55E00": "#F0743A",
    "#8C8C8C": "#A3A3AD",
}
# Blue is below the middle, orange above; contrast with the background shows the distance, so it also works in grey.
DIVERGING = [[0.0, "#1f4e8c"], [0.25, "#7fa8d1"], [0.5, "#f2f0eb"], [0.75, "#e8a15c"], [1.0, "#9c4a00"]]
DIVERGING_ON_DARK = [[0.0, "#7cc0ff"], [0.25, "#40709c"], [0.5, "#33333a"], [0.75, "#a0642a"], [1.0, "#ffb454"]]
# From the first layer to the last; neither end is close to a background colour.
DEPTH = [[0.0, "#56B4E9"], [0.3, "#0072B2"], [0.6, "#B0628F"], [0.8, "#D55E00"], [1.0, "#E69F00"]]


def expert_colour(expert: int) -> str:
    """Return the colour of an expert: the eight categories, then hues at other lightness, all visible."""
    if expert < len(CATEGORIES):
        return CATEGORIES[expert]
    lap, place = divmod(expert, len(CATEGORIES))
    base = CATEGORIES[place].lstrip("#")
    hue, light, strength = colorsys.rgb_to_hls(*(int(base[i : i + 2], 16) / 255 for i in (0, 2, 4)))
    light = (0.36, 0.72, 0.52, 0.64, 0.45, 0.78, 0.57)[(lap - 1) % 7]
    red, green, blue = colorsys.hls_to_rgb((hue + 0.043 * lap) % 1, light, strength)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def layer_colours(n: int) -> list[str]:
    """Return a colour for each of n layers: the categories if they suffice, else a scale from first to last."""
    if n <= len(CATEGORIES):
        return list(CATEGORIES[:n])
    return [str(colour) for colour in sample_colorscale(DEPTH, [i / (n - 1) for i in range(n)])]


def template(*, dark: bool = False) -> go.layout.Template:
    """Return Plotly's settings for a light or dark background; the background itself is transparent.

    Diverging heatmaps take their colours from here, through ``coloraxis``, so that the middle matches the background.
    """
    ink, grid = ("#e4e4e7", "#3f3f46") if dark else ("#27272a", "#e4e4e7")
    axis = {"gridcolor": grid, "zerolinecolor": grid, "linecolor": grid, "automargin": True, "title": {"standoff": 8}}
    axis |= {"exponentformat": "e", "separatethousands": True}  # a learning rate should not be shown as 900 micro
    bar = {
        "orientation": "h",
        "x": 0,
        "xanchor": "left",
        "len": 0.6,
        "thickness": 12,
        "xpad": 0,
        "ypad": 0,
        "outlinewidth": 0,
        "y": 1.03,
        "yanchor": "bottom",
    }
    return go.layout.Template(
        layout={
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": ink},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": [ON_DARK.get(colour, colour) if dark else colour for colour in CATEGORIES],
            "coloraxis": {"colorscale": DIVERGING_ON_DARK if dark else DIVERGING, "colorbar": bar},
            "xaxis": axis,
            "yaxis": axis,
            "margin": {"l": 56, "r": 16, "t": 104, "b": 48},
            "title": {"x": 0, "xref": "paper", "y": 1, "yanchor": "top", "pad": {"t": 28}, "font": {"size": 15}},
            "annotationdefaults": {"bgcolor": "rgba(34,34,38,0.7)" if dark else "rgba(247,247,248,0.7)"},
            "hoverlabel": {"namelength": -1},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        }
    )


def figure(title: str, x: str, y: str, *, height: int = 380, subtitle: str = "") -> go.Figure:
    """Create an empty figure with a title and axis titles.

    Args:
        subtitle: meaning of the colours, if there is no legend for it.
    """
    under = {"subtitle": {"text": subtitle}} if subtitle else {}
    return go.Figure(
        layout={
            "template": template(),
            "title": {"text": title} | under,
            "xaxis": {"title": {"text": x}},
            "yaxis": {"title": {"text": y}},
            "height": height,
        }
    )


def log_axis() -> dict[str, object]:
    """Return settings of a logarithmic axis: full numbers at 1, 2 and 5, where Plotly writes only the first digit."""
    ticks = [m * 10.0**power for power in range(-9, 10) for m in (1, 2, 5)]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def expert_axis(n: int) -> dict[str, object]:
    """Return settings of an axis of n experts: if there are many, every second, fourth, ... one is labelled."""
    every = 1
    while n / every > 16:
        every *= 2
    return {"showgrid": False, "zeroline": False, "tickvals": expert_names(n)[::every]}


def expert_names(n: int) -> list[str]:
    """Return E00, E01, ..."""
    return [f"E{expert:02d}" for expert in range(n)]


def layer_names(layers: Sequence[int]) -> list[str]:
    """Return L00, L01, ... from the layer indices."""
    return [f"L{layer:02d}" for layer in layers]
