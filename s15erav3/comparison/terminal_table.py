"""Comparison table fitted to the terminal width: ranges are dropped first, then metrics; numbers are never cut."""

from __future__ import annotations

import re
from collections.abc import Collection

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from s15erav3.comparison.tables import Grid

LONGEST = 24
"""Maximum width of a setting when space is short; longer ones are wrapped."""


def fitted(shown: Grid, rows: int, width: int, kept: Collection[str]) -> tuple[Table, list[str]]:
    """Fit the first ``rows`` groups into at most ``width`` terminal columns.

    If the table is too wide, only the first two metrics show their range, then none; then metrics are dropped from the
    right, except for those in ``kept``.

    Returns:
        the table, and the dropped metrics.
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
    """Build the table; metrics and run counts are never wrapped.

    Args:
        folded: whether setting columns are as narrow as their longest words.
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
    """Wrap a metric's name to lines of about twelve characters."""
    lines = [""]
    for part in re.findall(r"[^/_.]+[/_.]?", name):
        lines += [part] if lines[-1][-1:] == "/" or len(lines[-1] + part) > 13 else [lines.pop() + part]
    return "\n".join(line for line in lines if line)


def without_ranges(shown: Grid, n: int) -> Grid:
    """Return a table with only medians in all metrics after the first ``n``."""
    first = shown.n_settings + 1 + n  # after the settings and the number of runs
    rows = [[*row[:first], *(cell.partition(" (")[0] for cell in row[first:])] for row in shown.rows]
    return shown._replace(rows=rows)


def without_column(shown: Grid, at: int) -> Grid:
    """Return a table without one column."""
    header = [*shown.header[:at], *shown.header[at + 1 :]]
    return shown._replace(header=header, rows=[[*row[:at], *row[at + 1 :]] for row in shown.rows])
