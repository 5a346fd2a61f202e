"""A comparison as Markdown."""

from __future__ import annotations

from typing import NamedTuple

from s15erav3.comparison.groups import Group, states
from s15erav3.comparison.statistics import HEADER, Statistics
from s15erav3.comparison.tables import Grid, markdown
from s15erav3.runs.reader import Run


class Compared(NamedTuple):
    """The data to show about the runs."""

    title: str
    runs: list[Run]
    groups: list[Group]
    grid: Grid
    cautions: list[str]
    left_out: list[list[str]]
    statistics: Statistics


def to_markdown(compared: Compared) -> str:
    """The notes, the table of groups, and the excluded runs."""
    text = f"# {compared.title}\n\n{counts(compared)}\n\n"
    text += "".join(f"- {caution}\n" for caution in compared.cautions) + ("\n" if compared.cautions else "")
    shown = compared.grid
    text += markdown(shown.header, shown.rows, shown.n_settings)
    if shown.same:
        text += "\nThe same in all: " + ", ".join(f"{name} {value}" for name, value in shown.same.items()) + ".\n"
    its = compared.statistics
    if its.notes:
        text += "\n## Differences\n\n" + (markdown(HEADER, its.rows, 1) + "\n" if its.rows else "")
        text += "".join(f"- {note}\n" for note in its.notes)
    if compared.left_out:
        text += "\n## Failed and unfinished\n\n" + markdown(["run", "state", "why, or how far"], compared.left_out, 3)
    return text


def counts(compared: Compared) -> str:
    """Number of runs in each state."""
    each = ", ".join(f"{n:,} {state}" for state, n in states(compared.runs).items())
    n = len(compared.runs)
    return f"{n:,} run{'s' if n > 1 else ''}: {each}. Median (lowest to highest) over the runs of a group that count."
