"""The table of a comparison as wide as the terminal: ranges go first, then metrics, and no figure is ever cut."""

from __future__ import annotations

import re
from collections.abc import Collection

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from s15erav3.comparison.tables import Grid

LONGEST = 24
"""Columns that a setting gets at most where room is short; longer ones are written on several lines."""


def fitted(shown: Grid, rows: int, width: int, kept: Collection[str]) -> tuple[Table, list[str]]:
    """The first ``rows`` groups in at most ``width`` columns.

    Where it is too wide, only the first two metrics tell their range, then none; then metrics are left out from the
    right, but for those in ``kept``.

    Returns:
        the table, and the metrics that are left out.
    """
    left_out: list[str] = []
    for variant in (shown, without_ranges(shown, 2)):
        if _wide(table := drawn(variant, rows)) <= width:
            return table, left_out
    variant = without_ranges(shown, 0)
    while True:
        if _wide(drawn(variant, rows, folded=True)) <= width:
            break
        spare = [i for i in range(variant.n_settings + 1, len(variant.header)) if variant.header[i] not in kept]
        if not spare:
            break
        left_out.insert(0, variant.header[spare[-1]])
        variant = without_column(variant, spare[-1])
    return drawn(variant, rows), left_out


def drawn(shown: Grid, rows: int, *, folded: bool = False) -> Table:
    """The table, figures and numbers of runs never in several lines.

    Args:
        folded: whether the columns of settings are as narrow as their longest words.
    """
    table = Table(box=box.SIMPLE_HEAD)
    for i, name in enumerate(shown.header):
        if i >= shown.n_settings:
            table.add_column(escape(broken(name)), justify="right", no_wrap=True)
            continue
        longest = max(
            len(word) for row in [*shown.rows[:rows], [broken(name)] * (i + 1)] for word in (row[i].split() or [""])
        )
        table.add_column(escape(broken(name)), overflow="fold", max_width=min(longest, LONGEST) if folded else None)
    for row in shown.rows[:rows]:
        table.add_row(*map(escape, row))
    return table


def _wide(table: Table) -> int:
    return Console(width=10_000).measure(table).maximum


def broken(name: str) -> str:
    """A metric's name in lines of some twelve characters."""
    lines = [""]
    for part in re.findall(r"[^/_.]+[/_.]?", name):
        lines += [part] if lines[-1][-1:] == "/" or len(lines[-1] + part) > 13 else [lines.pop() + part]
    return "\n".join(line for line in lines if line)


def without_ranges(shown: Grid, n: int) -> Grid:
    """Medians alone in all metrics but the first ``n``."""
    first = shown.n_settings + 1 + n  # after the settings and the number of runs
    rows = [[*row[:first], *(cell.partition(" (")[0] for cell in row[first:])] for row in shown.rows]
    return shown._replace(rows=rows)


def without_column(shown: Grid, at: int) -> Grid:
    """Without one column."""
    header = [*shown.header[:at], *shown.header[at + 1 :]]
    return shown._replace(header=header, rows=[[*row[:at], *row[at + 1 :]] for row in shown.rows])
