"""The columns of a sweep's live table, as many as the terminal has room for."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

COLUMNS = ("job", "sets", "state", "at", "step", "val/bpb", "MaxVio", "left")
LEAST = 20
"""Columns of what a job sets, which others make room for."""


def fitting(rows: Sequence[tuple[list[str], str]], width: int) -> Table:
    """The cells of jobs, with a style each, in at most ``width`` columns: what a job sets is cut where it is long, and
    where that is not enough its place goes, then its MaxVio, then its time left."""
    names = list(COLUMNS)
    widths = {
        name: max(len(text) for text in (name, *(cells[i] for cells, _ in rows))) for i, name in enumerate(COLUMNS)
    }
    widths["sets"] = min(widths["sets"], LEAST)
    for spare in ("at", "MaxVio", "left"):
        if sum(widths[name] + 2 for name in names) - 2 <= width:
            break
        names.remove(spare)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in names:
        right = name not in ("sets", "state", "at")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "sets")  # that alone is cut
    for cells, style in rows:
        shown = [Text(cells[COLUMNS.index(name)], no_wrap=True, overflow="ellipsis") for name in names]
        table.add_row(*shown, style=style)
    return table
