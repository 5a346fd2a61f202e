"""What all figures share: colours that the colour-blind can tell apart, on light and on dark paper."""

from __future__ import annotations

import colorsys

import plotly.graph_objects as go

# Okabe and Ito's eight (2008), black left out: it is the text's, and cannot be seen on dark paper.
CATEGORIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#F0E442")
SEQUENTIAL = "Cividis"
# Blue is less than the middle, orange more; lightness tells the distance, so that it also reads in grey.
DIVERGING = [[0.0, "#1f4e8c"], [0.25, "#7fa8d1"], [0.5, "#f2f0eb"], [0.75, "#e8a15c"], [1.0, "#9c4a00"]]


def expert_colour(expert: int) -> str:
    """A colour for an expert: the eight categories, then hues in turn at other lightness."""
    if expert < len(CATEGORIES):
        return CATEGORIES[expert]
    lap, place = divmod(expert, len(CATEGORIES))
    base = CATEGORIES[place].lstrip("#")
    hue, light, strength = colorsys.rgb_to_hls(*(int(base[i : i + 2], 16) / 255 for i in (0, 2, 4)))
    light = (0.35, 0.72, 0.5, 0.25, 0.82, 0.6, 0.42)[(lap - 1) % 7]
    red, green, blue = colorsys.hls_to_rgb((hue + 0.043 * lap) % 1, light, strength)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def template(*, dark: bool = False) -> go.layout.Template:
    """Plotly's settings for one kind of paper; the paper itself is left see-through."""
    ink, grid = ("#e4e4e7", "#3f3f46") if dark else ("#27272a", "#e4e4e7")
    axis = {"gridcolor": grid, "zerolinecolor": grid, "linecolor": grid, "automargin": True, "title": {"standoff": 8}}
    return go.layout.Template(
        layout={
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": ink},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": list(CATEGORIES),
            "xaxis": axis,
            "yaxis": axis,
            "margin": {"l": 56, "r": 16, "t": 48, "b": 48},
            "hoverlabel": {"namelength": -1},
            "legend": {"orientation": "h", "y": -0.2, "x": 0},
        }
    )


def figure(title: str, x: str, y: str, *, height: int = 360) -> go.Figure:
    """An empty figure with its title and the titles of its axes."""
    return go.Figure(
        layout={
            "template": template(),
            "title": {"text": title, "x": 0, "xref": "paper", "font": {"size": 15}},
            "xaxis": {"title": {"text": x}},
            "yaxis": {"title": {"text": y}},
            "height": height,
        }
    )
