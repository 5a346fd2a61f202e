"""Sweeps as tables: one row per group for display, one row per run as CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from s15erav3.comparison.groups import BPB, MAXVIO, Group, Spread, account, metrics, value
from s15erav3.comparison.settings import ABSENT
from s15erav3.runs.reader import Run

USUAL = (BPB, MAXVIO, "balance/dead_experts_global", "perf/tokens_per_second_overall", "params/active")
NOT_CAUSAL, UNFINISHED = " †", " *"


class Grid(NamedTuple):
    """A table of texts with a row per group."""

    header: list[str]
    rows: list[list[str]]
    keys: list[list[float | str]]
    """Sort keys of the cells."""
    n_settings: int
    """Number of setting columns at the left."""
    same: dict[str, str]
    """Metrics that were not requested by name and are the same in all groups."""
    labels: list[str]
    """A short name for each group."""


def grid(groups: Sequence[Group], wanted: Sequence[str] | None = None) -> Grid:
    """Build a table of settings, number of counted runs, and metrics as median and range.

    Args:
        wanted: metric columns; ``None`` selects the default ones that the groups have, without those that are the
            same everywhere.
    """
    columns, same = list(wanted or USUAL), {}
    for name in USUAL if wanted is None else ():
        found = [spread for group in groups if (spread := group.spread(name)).n]
        if not found:
            columns.remove(name)
        elif len(groups) > 1 and name != BPB and {found[0].low} == {v for s in found for v in (s.low, s.high)}:
            columns.remove(name)
            same[name] = number(name, found[0].median)
    settings, cells = folded(groups)
    rows: list[list[str]] = []
    keys: list[list[float | str]] = []
    for group, said in zip(groups, cells, strict=True):
        spreads = [group.spread(name) for name in columns]
        texts = [text(name, spread) for name, spread in zip(columns, spreads, strict=True)]
        if not group.causal and BPB in columns:
            texts[columns.index(BPB)] += NOT_CAUSAL
        rows.append([*said, counted(group), *texts])
        keys.append([*said, float(len(group.counted)), *(spread.median for spread in spreads)])
    return Grid([*settings, "n", *columns], rows, keys, len(settings), same, _labels(settings, cells))


def folded(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """Return the settings as columns.

    Settings that only some choices have are shown with the choice: ``dsv3 rate=0.003``. The same applies to a setting
    that all groups have and whose value most groups of a choice share; it is shown where the value differs or the
    command line sets it.

    Returns:
        names of the columns, and a row of cells for each group.
    """
    names = list(groups[0].settings) if groups else []
    told = [dict(group.settings) for group in groups]
    kept = []
    for name in names:
        parent, _, own = name.partition(".")
        its = [group.settings[name] for group in groups]
        if not own or parent not in names:
            kept.append(name)
            continue
        usual = _usual([group.settings[parent] for group in groups], its) if ABSENT not in its else {}
        if ABSENT not in its and not usual:
            kept.append(name)
            continue
        for group, one, found in zip(groups, told, its, strict=True):
            is_said = any(name in run.overrides for run in group.runs)
            if found != ABSENT and (is_said or found != usual.get(group.settings[parent])):
                one[parent] += f" {own}={found}"
    return kept, [[one[name] for name in kept] for one in told]


def _usual(choices: list[str], values: list[str]) -> dict[str, str]:
    """Return the most common value for each choice; empty if a choice has none."""
    pairs, count = Counter(zip(choices, values, strict=True)), Counter(choices)
    found = {choice: value for (choice, value), n in pairs.items() if 2 * n > count[choice]}
    return found if len(found) == len(count) else {}


def _labels(settings: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """Build labels: choices by name, values with the last part of their key."""
    labels = []
    for row in cells:
        parts = [
            cell if "." not in key and not cell[:1].isdigit() else f"{key.rpartition('.')[2]}={cell}"
            for key, cell in zip(settings, row, strict=True)
            if cell != ABSENT
        ]
        labels.append(" ".join(parts) or "all runs")
    return labels


def counted(group: Group) -> str:
    """Format the number of counted runs, the total if it differs, and a star if some are still running."""
    n, of = len(group.counted), len(group.runs)
    unfinished = any(run.status != "completed" for run in group.counted)
    return (f"{n}" if n == of else f"{n} of {of}") + (UNFINISHED if unfinished else "")


def number(metric: str, found: float) -> str:
    """Format a metric for display."""
    if math.isnan(found):
        return ABSENT
    if metric.endswith("bpb"):
        return f"{found:.4f}"
    if abs(found) >= 1000 or found == int(found or 0):
        return f"{found:,.0f}"
    return f"{found:.4g}"


def text(metric: str, spread: Spread) -> str:
    """Format median and range: ``1.4896 (1.4812 to 1.4950)``."""
    middle, low, high = (number(metric, found) for found in spread[:3])
    return middle if low == high else f"{middle} ({low} to {high})"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], n_left: int) -> str:
    """Build a Markdown table; all columns after the first ``n_left`` are right-aligned."""
    rule = ["---" if i < n_left else "---:" for i in range(len(header))]
    lines = [header, rule, *rows]
    return "".join("| " + " | ".join(in_markdown(cell) for cell in line) + " |\n" for line in lines)


def in_markdown(text: str) -> str:
    """Escape the text of a cell for Markdown and HTML."""
    flat = " ".join(escape(text, quote=False).split())
    return re.sub(r"([|\\`\[\]*~])", r"\\\1", flat)


def left_out(runs: Sequence[Run], groups: Sequence[Group]) -> list[list[str]]:
    """Return folder, state and reason of each run that does not count, or counts while unfinished."""
    final = {run.folder for group in groups for run in [*group.counted, *group.noise] if run.status == "completed"}
    return [[str(run.folder), run.status, account(run)] for run in runs if run.folder not in final]


def to_csv(runs: Sequence[Run], groups: Sequence[Group]) -> str:
    """Write one row per run: folder, group, state, settings and all metrics.

    Groups are numbered in the given order. Missing values are empty.
    """
    place = {run.folder: (n, group) for n, group in enumerate(groups, start=1) for run in [*group.runs, *group.noise]}
    settings, names = list(groups[0].settings) if groups else [], metrics(runs)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["folder", "group", "status", "reason", "seed", "rounding", *settings, *names])
    for run in sorted(runs, key=lambda run: place[run.folder][0] if run.folder in place else len(runs) + 1):
        n, its = (place[run.folder][0], place[run.folder][1].settings) if run.folder in place else ("", {})
        given = ["" if its.get(key, ABSENT) == ABSENT else its[key] for key in settings]
        found = [value(run, name) for name in names]
        figures = ["" if name not in run.result else _plain(v) for name, v in zip(names, found, strict=True)]
        repetition = [run.config.get("seed", ""), run.config.get("rounding", "")]
        writer.writerow([run.folder, n, run.status, " ".join(run.reason.split()), *repetition, *given, *figures])
    return stream.getvalue()


def _plain(found: float) -> str:
    return str(int(found)) if math.isfinite(found) and found == int(found) else repr(found)
