"""Heatmaps as pixels and samples as Markdown, for loggers that support neither Plotly figures nor HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.colors import hex_to_rgb

CELL = 16
"""Side length of a value's square, in pixels."""
NOTHING = (128, 128, 128)
"""Colour of missing values."""


def pixels(figure: go.Figure) -> NDArray[np.uint8]:
    """Return the cells of a heatmap in the figure's own colours, without axes and titles.

    Args:
        figure: has one heatmap (rows, columns) and a shared colour axis of hexadecimal colours.

    Returns:
        red, green and blue, (16 rows, 16 columns, 3).
    """
    values = np.array(figure.data[0].z, dtype=float)  # None becomes nan
    axis = figure.layout.coloraxis
    scale = axis.colorscale or figure.layout.template.layout.coloraxis.colorscale
    places = np.array([place for place, _ in scale])
    colours = np.array([hex_to_rgb(colour) for _, colour in scale], dtype=float)
    share = (values - axis.cmin) / (axis.cmax - axis.cmin)
    channels = [np.interp(share, places, channel) for channel in colours.T]  # clips values to the range
    image = np.where(np.isnan(values)[..., None], NOTHING, np.round(np.stack(channels, axis=-1)))
    return image.astype(np.uint8).repeat(CELL, axis=0).repeat(CELL, axis=1)


def markdown(samples: Iterable[Mapping[str, Any]]) -> str:
    """Return texts ``{"prompt", "text"}`` as Markdown: the prompt in bold, then the model's text, line by line."""
    return "\n\n---\n\n".join(f"**{_plain(s['prompt']) or '(no prompt)'}**\n\n{_plain(s['text'])}" for s in samples)


def _plain(text: str) -> str:
    """Escape text so that Markdown shows it literally, with a hard break at each line's end."""
    escaped = re.sub(r"([\\`*_{}\[\]<>#+\-!|~&])", r"\\\1", text.strip())
    return re.sub(r"\n", "  \n", escaped)
