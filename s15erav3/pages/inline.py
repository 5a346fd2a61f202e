"""Display of page widgets in notebooks."""

from __future__ import annotations

from html import escape
from pathlib import Path

from s15erav3.pages.commentary import Widget
from s15erav3.pages.page import Html

HERE = Path(__file__).parent
PAGE = """<!doctype html>
<html lang="en" data-paper="light">
<meta charset="utf-8">
<style>{styles}</style>
<body><main><section><p>{text}</p>{markup}</section></main><script>{script}</script></body>
</html>"""
IN_FRAME = "main { padding: 0 1rem 1rem } section { padding-top: .75rem } .coloured .controls { top: 0 }"


def inline(widget: Widget, height: int = 700) -> str:
    """Return the widget as HTML for the output of a notebook cell.

    It is in a frame, which isolates styles and scripts, with a light background like the figures. It needs no network.

    Args:
        height: height of the frame in pixels; longer content scrolls.
    """
    section = widget.section
    page = PAGE.format(
        styles=(HERE / "page.css").read_text() + widget.style + IN_FRAME,
        text=escape(section.text),
        markup="".join(block.markup for block in section.blocks if isinstance(block, Html)),
        script=widget.script,
    )
    return (  # in a div: IPython warns about any markup that starts with a frame
        f'<div><iframe title="{escape(section.title)}" srcdoc="{escape(page)}" '
        f'style="width: 100%; height: {height}px; border: 0"></iframe></div>'
    )
