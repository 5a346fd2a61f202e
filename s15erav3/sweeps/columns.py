"""The columns of a sweep's live table, as many as fit into the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

COLUMNS = ("job", "sets", "state", "at", "step", "val/bpb", "MaxVio", "left")
LEAST = 20
"""Minimum width of the column of a job's settings, to which other columns give way."""


def fitting(rows: Sequence[tuple[list[str], str]], width: int) -> Table:
    """Return a table of the jobs' cells, with one style per row, at most ``width`` columns wide.

    Long settings are cut first. If that is not enough, the job's place is dropped, then its MaxVio, then its time left.
    """
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
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "sets")  # only this column is cut
    for cells, style in rows:
        shown = [Text(cells[COLUMNS.index(name)], no_wrap=True, overflow="ellipsis") for name in names]
        table.add_row(*shown, style=style)
    return table
