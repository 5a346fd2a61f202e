"""From sections of charts and tables to one HTML file that needs no network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from s15erav3.figures.style import template

HERE = Path(__file__).parent


class Chart(NamedTuple):
    """A figure, and what it shows in one sentence, read aloud to who cannot see it."""

    figure: go.Figure
    caption: str


class Html(NamedTuple):
    """Markup of one's own: a table, a widget whose script is given to :func:`write_page`."""

    markup: str


class Section(NamedTuple):
    """A chapter of the page."""

    title: str
    text: str
    """Plain text."""
    blocks: Sequence[Chart | Html]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> Html:
    """A table of plain texts, which scrolls inside itself where it is wider than the page; numbers are set right."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "".join("<tr>" + "".join(_cell(text) for text in row) + "</tr>" for row in rows)
    return Html(
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    number = text.replace(",", "").lstrip("-").replace(".", "", 1).rstrip("%").strip().isdigit()
    return f'<td class="number">{escape(text)}</td>' if number else f"<td>{escape(text)}</td>"


def write_page(
    file: Path,
    title: str,
    subtitle: str,
    sections: Sequence[Section],
    *,
    styles: Sequence[str] = (),
    scripts: Sequence[str] = (),
) -> None:
    """Write the page whole or not at all.

    Args:
        file: where to.
        title, subtitle: plain text.
        sections: in reading order; each with an entry in the table of contents.
        styles, scripts: CSS and JavaScript of widgets, run after the charts are set up.
    """
    charts: list[dict[str, object]] = []
    parts: list[dict[str, object]] = []
    for number, section in enumerate(sections):
        blocks: list[dict[str, object]] = []
        for block in section.blocks:
            if isinstance(block, Chart):
                blocks.append({"chart": f"chart-{len(charts)}", "caption": block.caption})
                charts.append(_without_template(block.figure))
            else:
                blocks.append({"markup": block.markup})
        parts.append({"id": f"section-{number}", "title": section.title, "text": section.text, "blocks": blocks})
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("page.html.j2").render(
        title=title,
        subtitle=subtitle,
        sections=parts,
        plotly=get_plotlyjs(),
        charts=script_json(charts),
        templates=script_json({"light": template().to_plotly_json(), "dark": template(dark=True).to_plotly_json()}),
        styles=[(HERE / "page.css").read_text(), *styles],
        scripts=[(HERE / "page.js").read_text(), *scripts],
    )
    scratch = file.with_name(file.name + ".partial")
    scratch.write_text(page, encoding="utf-8")
    scratch.replace(file)


def _without_template(figure: go.Figure) -> dict[str, object]:
    """The figure as JSON's objects; page.js puts the template of the reader's paper in, and makes the slider itself:
    Plotly's own cannot be reached by keyboard."""
    found: dict[str, dict[str, object]] = json.loads(figure.to_json())
    for key in ("template", "sliders", "updatemenus"):
        found["layout"].pop(key, None)
    return dict(found)


def script_json(value: object) -> str:
    """JSON that can stand inside a script element, whatever texts are in it."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c").replace("\u2028", "\\u2028")
