"""A picture for each strategy, cut from the study's figure of MaxVio: what docs/laboratory.md shows.

python scripts/study_panels.py
"""

from __future__ import annotations

import copy
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FIGURES = Path(__file__).parent.parent / "docs" / "figures"
SVG, LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
LEFT, TOP, RIGHT, BOTTOM = 32, 18, 8, 18
"""Margins around the axes, in points: for the labels, and for the title above."""


class Panel(NamedTuple):
    """The axes of one strategy, and where they lie: in points, from the figure's upper left corner."""

    axes: ET.Element
    left: float
    top: float
    right: float
    bottom: float


def cut(figure: str) -> Iterator[tuple[str, str]]:
    """The name and the SVG of each panel of a figure that matplotlib has written.

    Panels of a row share the labels of the vertical axis, which the first of them has, and those of a column share the
    labels of the horizontal axis, which the last of them has: every picture gets both.
    """
    ET.register_namespace("", SVG[1:-1])
    ET.register_namespace("xlink", LINK[1:].partition("}")[0])
    root = ET.fromstring(figure)
    groups = [g for g in root.iter(f"{SVG}g") if re.fullmatch(r"axes_\d+", g.get("id", ""))]
    panels = [Panel(group, *_box(group)) for group in groups if len(group)]
    names = re.findall(r"^    <!-- (\w+) -->$", figure, re.MULTILINE)  # titles; texts are drawn as shapes
    for name, panel in zip(names, panels, strict=False):  # those of the legend follow
        row = min((p for p in panels if p.top == panel.top), key=lambda p: p.left)
        column = max((p for p in panels if p.left == panel.left), key=lambda p: p.top)
        yield name, _picture(root, panel, row, column)


def _box(group: ET.Element) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the background of the axes."""
    numbers = [float(n) for n in re.findall(r"[\d.]+", group[0][0].get("d", ""))]
    xs, ys = numbers[0::2], numbers[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def _picture(root: ET.Element, panel: Panel, row: Panel, column: Panel) -> str:
    x, y = panel.left - LEFT, panel.top - TOP
    width, height = panel.right + RIGHT - x, panel.bottom + BOTTOM - y
    size = {"width": f"{width:.0f}pt", "height": f"{height:.0f}pt"}
    picture = ET.Element(f"{SVG}svg", size | {"viewBox": f"{x:.2f} {y:.2f} {width:.2f} {height:.2f}"})
    picture.append(root.findall(f"{SVG}defs")[0])
    ET.SubElement(
        picture, f"{SVG}rect", {"x": str(x), "y": str(y), "width": "100%", "height": "100%", "fill": "#ffffff"}
    )
    shown = copy.deepcopy(panel.axes)
    for tick in _ticks(shown, ""):  # their labels come back below, from where they are
        for label in _labels(tick):
            tick.remove(label)
    picture.append(shown)
    for source, kind, dx, dy in (
        (row, "ytick", panel.left - row.left, 0.0),
        (column, "xtick", 0.0, panel.top - column.top),
    ):
        moved = ET.SubElement(picture, f"{SVG}g", {"transform": f"translate({dx:.2f} {dy:.2f})"})
        for tick in _ticks(source.axes, kind):
            moved.extend(_labels(tick))
    _define(picture, root)
    return ET.tostring(picture, encoding="unicode") + "\n"


def _ticks(axes: ET.Element, kind: str) -> list[ET.Element]:
    return [group for group in axes.iter(f"{SVG}g") if re.match(kind or "[xy]tick", group.get("id", ""))]


def _labels(tick: ET.Element) -> list[ET.Element]:
    return [group for group in tick.findall(f"{SVG}g") if group.get("id", "").startswith("text_")]


def _define(picture: ET.Element, root: ET.Element) -> None:
    """Give the picture all shapes that it refers to and does not hold."""
    shapes = {shape.get("id", ""): shape for defs in root.iter(f"{SVG}defs") for shape in defs}
    added = ET.SubElement(picture, f"{SVG}defs")
    while True:
        text = ET.tostring(picture, encoding="unicode")
        used = set(re.findall(r'(?:href="|url\()#([\w-]+)', text))
        missing = used - {element.get("id") for element in picture.iter()}
        if not missing:
            return
        added.extend(shapes[name] for name in sorted(missing))


if __name__ == "__main__":
    for name, picture in cut((FIGURES / "balancing_maxvio.svg").read_text()):
        (FIGURES / f"maxvio_{name}.svg").write_text(picture)
