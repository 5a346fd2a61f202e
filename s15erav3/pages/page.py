"""Rendering of sections with charts and tables to one self-contained HTML file."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from s15erav3.figures.style import ON_DARK, template
from s15erav3.files import replace_text
from s15erav3.metrics import hover

HERE = Path(__file__).parent
SHARED = ("x", "y", "text", "customdata")
"""Trace arrays that many traces share: stored once in the page."""


class Chart(NamedTuple):
    """A figure with a one-sentence description for screen readers."""

    figure: go.Figure
    caption: str
    wide: bool = False
    """Takes the whole width of the page."""


class Html(NamedTuple):
    """Custom markup: a table, or a widget whose script is passed to :func:`write_page`."""

    markup: str
    wide: bool = True
    """Takes the whole width of the page."""


class Choice(NamedTuple):
    """Several figures or tables in one place; the reader selects one with a dropdown per label."""

    title: str
    labels: Sequence[str]
    """Labels of the dropdowns."""
    options: Mapping[tuple[str, ...], go.Figure] | Mapping[tuple[str, ...], Html]
    """Keyed by one value per label, with every combination of values; the last label changes fastest. The first entry
    is shown initially. Either all entries are figures or none is."""
    caption: str
    wide: bool = False


class Section(NamedTuple):
    """A section of the page."""

    title: str
    text: str
    """Plain text."""
    blocks: Sequence[Chart | Choice | Html]
    folded: bool = False
    """Collapsed to its title until the reader opens it."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> Html:
    """Build a table of plain texts. It scrolls if it is wider than the page; numeric columns are right-aligned."""
    right = [bool(rows) and all(_is_number(row[i]) for row in rows if row[i]) for i in range(len(header))]
    head = "".join(
        f'<th scope="col"{_number(number)}{_hover(name)}>{escape(name)}</th>'
        for name, number in zip(header, right, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td{_number(number)}>{escape(text)}</td>" for text, number in zip(row, right, strict=True))
        + "</tr>"
        for row in rows
    )
    return Html(
        f'<h3>{escape(caption)}</h3><div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?[\d,]+(\.\d+)?(e[-+]?\d+)? ?%?", text) is not None


def _hover(name: str) -> str:
    """Return the hover text that explains a metric."""
    return f' title="{escape(about)}"' if (about := hover(name)) else ""


def _number(is_one: bool) -> str:
    return ' class="number"' if is_one else ""


def details(summary: str, markup: str) -> Html:
    """Return markup that is collapsed until the reader opens it."""
    return Html(f"<details><summary>{escape(summary)}</summary>{markup}</details>")


def write_page(
    file: Path,
    title: str,
    subtitle: str,
    sections: Sequence[Section],
    *,
    styles: Sequence[str] = (),
    scripts: Sequence[str] = (),
) -> None:
    """Write the page atomically.

    Args:
        file: output file.
        title, subtitle: plain text.
        sections: in reading order; each gets an entry in the table of contents.
        styles, scripts: CSS and JavaScript of widgets; scripts run after the charts are set up.

    Raises:
        OSError: the file cannot be written.
        ValueError: a choice lacks a combination of its values.
    """
    store = _Store()
    parts = [
        {
            "id": _slug(section.title),
            "title": section.title,
            "text": section.text,
            "folded": section.folded,
            "blocks": [store.block(block) for block in section.blocks],
        }
        for section in sections
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("page.html.j2").render(
        title=title,
        subtitle=subtitle,
        sections=parts,
        plotly=get_plotlyjs(),
        charts=script_json({"places": store.places, "shared": store.shared}),
        templates=script_json({"light": template().to_plotly_json(), "dark": template(dark=True).to_plotly_json()}),
        inks=script_json(ON_DARK),
        styles=[(HERE / "page.css").read_text(), *styles],
        scripts=[(HERE / "page.js").read_text(), *scripts],
    )
    replace_text(file, page)


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


class _Store:
    """Chart placeholders of the page, and the arrays that charts share."""

    def __init__(self) -> None:
        self.places: list[list[dict[str, Any]]] = []
        self.shared: list[Any] = []
        self._numbers: dict[str, int] = {}

    def block(self, block: Chart | Choice | Html) -> dict[str, Any]:
        """Return the template variables of a block."""
        if isinstance(block, Html):
            return {"markup": block.markup, "wide": block.wide}
        if isinstance(block, Chart):
            title = str(block.figure.layout.title.text or "")
            return {"title": title, "selects": [], "chart": self._place([block.figure])} | _described(block)
        values = [list(dict.fromkeys(column)) for column in zip(*block.options, strict=True)]
        if list(block.options) != list(itertools.product(*values)):
            raise ValueError(f"the choice '{block.title}' does not have every combination of its values in order")
        selects = list(zip(block.labels, values, strict=True))
        figures = [option for option in block.options.values() if isinstance(option, go.Figure)]
        texts = [option.markup for option in block.options.values() if isinstance(option, Html)]
        shown = {"chart": self._place(figures)} if figures else {"texts": texts}
        return {"title": block.title, "selects": selects} | shown | _described(block)

    def _place(self, figures: list[go.Figure]) -> str:
        self.places.append([self._plain(figure) for figure in figures])
        return f"chart-{len(self.places) - 1}"

    def _plain(self, figure: go.Figure) -> dict[str, Any]:
        """Convert the figure to JSON objects without the parts that the page provides.

        These are the light or dark template, the title as a heading, and the slider, because Plotly's slider is not
        accessible by keyboard.
        """
        found: dict[str, Any] = json.loads(figure.to_json())
        for key in ("template", "sliders", "updatemenus", "title"):
            found["layout"].pop(key, None)
        for trace in found["data"]:
            for key in SHARED:
                if isinstance(trace.get(key), list):
                    trace[key] = self._share(trace[key])
        return found

    def _share(self, array: list[Any]) -> dict[str, int]:
        key = json.dumps(array)
        if key not in self._numbers:
            self._numbers[key] = len(self.shared)
            self.shared.append(array)
        return {"shared": self._numbers[key]}


def _described(block: Chart | Choice) -> dict[str, Any]:
    """Return caption, width, and the subtitle, which all figures of a choice share."""
    figure = block.figure if isinstance(block, Chart) else next(iter(block.options.values()))
    subtitle = figure.layout.title.subtitle.text if isinstance(figure, go.Figure) else None
    return {"caption": block.caption, "wide": block.wide, "subtitle": subtitle or ""}


def script_json(value: object) -> str:
    """Encode JSON so that it is safe inside a script element."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c").replace("\u2028", "\\u2028")
