"""Names written beside what they name, where a legend of fifteen entries would send the eye to and fro."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

NEAREST, FARTHEST, STEP, DIRECTIONS = 9, 90, 4, 16  # pixels, pixels, pixels, tries around a circle
CLEARANCE = 4  # pixels around every point and line


class Label(NamedTuple):
    """A name to be written near a point of the data."""

    x: float
    y: float
    text: str
    colour: str


def place(axis: Axes, labels: list[Label]) -> None:
    """Write each label at the nearest place where it covers nothing that is drawn, no other label and no edge; a
    label that has to go far gets a thin line to its point. Call it last, when the axis has its final size."""
    taken = [around(x, y) for x, y in drawn(axis)]
    frame, renderer = axis.get_window_extent(), axis.figure.canvas.get_renderer()
    points_per_pixel = 72 / axis.figure.dpi
    for label in sorted(labels, key=lambda label: (label.x, label.y)):
        at = label.x, label.y
        text = axis.annotate(label.text, at, (0, 0), textcoords="offset points", color=label.colour, fontsize=9)
        text.set_in_layout(False)
        size = text.get_window_extent(renderer)
        x, y = axis.transData.transform(at)
        for radius, turn in ((r, t) for r in range(NEAREST, FARTHEST, STEP) for t in range(DIRECTIONS)):
            angle = 2 * math.pi * turn / DIRECTIONS
            dx, dy = radius * math.cos(angle), radius * math.sin(angle)
            left = x + dx - (0 if dx > 1 else size.width if dx < -1 else size.width / 2)
            box = Bbox.from_bounds(left, y + dy - size.height / 2, size.width, size.height)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)
        text.set_position(((box.x0 - x) * points_per_pixel, (box.y0 - y) * points_per_pixel))
        if radius > NEAREST + STEP:
            near = (np.clip(x, box.x0, box.x1), np.clip(y, box.y0, box.y1))
            ends = axis.transData.inverted().transform([(x, y), near])
            axis.plot(*ends.T, color=label.colour, lw=0.6, alpha=0.7, scalex=False, scaley=False)
            taken += [around(*point) for point in np.linspace((x, y), near, 20)]


def around(x: float, y: float) -> Bbox:
    """What a label must not touch."""
    return Bbox.from_bounds(x - CLEARANCE, y - CLEARANCE, 2 * CLEARANCE, 2 * CLEARANCE)


def drawn(axis: Axes) -> list[tuple[float, float]]:
    """Pixels of all that is drawn: points, and lines every few pixels."""
    found = [tuple(p) for dots in axis.collections for p in axis.transData.transform(dots.get_offsets())]
    for line in axis.lines:
        corners = line.get_transform().transform(line.get_xydata())
        for start, end in pairwise(corners):
            found += map(tuple, np.linspace(start, end, 2 + int(math.dist(start, end) / CLEARANCE)))
    return found
