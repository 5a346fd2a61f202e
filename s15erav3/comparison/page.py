"""compare.html: a table of the groups of a sweep, and charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from s15erav3.comparison.charts import (
    MOST_SETTINGS,
    MOST_VALUES,
    curves_section,
    effects_section,
    parallel_section,
    trade_off_section,
)
from s15erav3.comparison.colours import Colouring, colourings, colourings_json
from s15erav3.comparison.groups import BPB, MAXVIO, Group, pareto, states
from s15erav3.comparison.settings import ABSENT, natural
from s15erav3.comparison.statistics import HEADER, Statistics
from s15erav3.comparison.tables import Grid
from s15erav3.metrics import hover
from s15erav3.pages.page import Html, Section, script_json, table, write_page
from s15erav3.runs.reader import Run

HERE = Path(__file__).parent


def write_comparison(
    file: Path,
    title: str,
    groups: Sequence[Group],
    runs: Sequence[Run],
    shown: Grid,
    cautions: Sequence[str],
    left_out: Sequence[Sequence[str]],
    statistics: Statistics,
    sorted_by: str,
    *,
    descending: bool = False,
) -> None:
    """Write the page.

    Args:
        groups: in the order of the table.
        shown: table of these groups.
        left_out: folder, state and reason of the runs that do not count.
        statistics: differences to a reference group.
        sorted_by, descending: sort metric and direction.

    Raises:
        OSError: the file cannot be written.
    """
    front = on_front(groups)
    counts = ", ".join(f"{n:,} {state}" for state, n in states(runs).items())
    subtitle = (
        f"{_many(len(runs), 'run')} ({counts}) in {_many(len(groups), 'group')}, which differ in more than a seed"
    )
    colours = colourings(groups, shown.header[: shown.n_settings], shown.labels)
    sections = [groups_section(groups, shown, cautions, front, {sorted_by: descending}, colours)]
    if statistics.notes:
        blocks = [table(HEADER, statistics.rows, _many(len(statistics.rows), "comparison"))] if statistics.rows else []
        sections.append(Section("Differences", " ".join(statistics.notes), blocks))
    if any(group.counted for group in groups):
        sections += [
            trade_off_section(groups, front, shown, colours[0]),
            effects_section(groups),
            parallel_section(groups, shown.header[: shown.n_settings]),
        ]
    sections += curves_section(groups, shown.labels, colours[0])
    n_axes = 2 + min(MOST_SETTINGS, len(groups[0].settings) if groups else 0)
    if left_out:
        listed = table(["run", "state", "why, or how far"], left_out, _many(len(left_out), "run"))
        text = "None of these count in the medians, except running ones with unfinished=true."
        sections.append(Section("Failed and unfinished", text, [listed]))
    write_page(
        file,
        title,
        subtitle,
        sections,
        styles=[(HERE / "page.css").read_text(), f":root {{ --axes: {n_axes} }}"],
        scripts=[(HERE / "page.js").read_text()],
    )


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def on_front(groups: Sequence[Group]) -> list[bool]:
    """Mark the groups on the Pareto front of bits per byte and MaxVio; groups that are not causal never are."""
    medians = [(g.spread(MAXVIO).median, g.spread(BPB).median) if g.causal else (math.nan, math.nan) for g in groups]
    return [bool(one) for one in pareto(medians)]


def groups_section(
    groups: Sequence[Group],
    shown: Grid,
    cautions: Sequence[str],
    front: Sequence[bool],
    order: dict[str, bool],
    colours: Sequence[Colouring],
) -> Section:
    """Build the section with caveats, filter, choice of colours, and the table."""
    text = "Median over the runs of a group (lowest to highest); n is how many count. Press a header to sort by it."
    if any(front):
        text += " Bold: on the Pareto front of val/bpb and MaxVio."
    if shown.same:
        text += " The same in all: " + ", ".join(f"{name} {value}" for name, value in shown.same.items()) + "."
    blocks = []
    if cautions:
        items = "".join(f"<li>{escape(caution)}</li>" for caution in cautions)
        blocks.append(Html(f'<ul class="cautions">{items}</ul>'))
    if len(groups) > 1:
        blocks.append(_filter(groups))
    data = f'<script type="application/json" id="colourings">{colourings_json(colours)}</script>'
    listed = _sortable(shown, front, order)
    return Section("Groups", text, [*blocks, listed._replace(markup=listed.markup + data)])


def _filter(groups: Sequence[Group]) -> Html:
    selects: list[str] = []
    for key in groups[0].settings if groups else ():
        values = sorted({group.settings[key] for group in groups}, key=natural)
        if len(values) <= MOST_VALUES and len(selects) < MOST_SETTINGS:
            options = "".join(f'<option value="{escape(v)}">{escape(v)}</option>' for v in values)
            name = escape(key)
            selects.append(
                f'<label>{name} <select name="{name}"><option value="">all</option>{options}</select></label>'
            )
    data = script_json([group.settings for group in groups])
    return Html(
        f'<details class="filter" open><summary>Show only</summary><script type="application/json">{data}</script>'
        f'<div class="selects">{"".join(selects)}<output></output></div>'
        "<p>Effects and the Pareto front still cover all groups.</p></details>"
    )


def _sortable(shown: Grid, front: Sequence[bool], order: dict[str, bool]) -> Html:
    heads = []
    for i, name in enumerate(shown.header):
        direction = {None: "", False: ' aria-sort="ascending"', True: ' aria-sort="descending"'}[order.get(name)]
        right = ' class="number"' if i >= shown.n_settings else ""
        title = f' title="{escape(about)}"' if (about := hover(name)) else ""
        heads.append(f'<th scope="col"{right}{title}{direction}><button type="button">{_breakable(name)}</button></th>')
    rows = []
    for n, (texts, keys) in enumerate(zip(shown.rows, shown.keys, strict=True)):
        cells = []
        for i, (text, key) in enumerate(zip(texts, keys, strict=True)):
            plain = "" if key == ABSENT or (isinstance(key, float) and math.isnan(key)) else key
            middle, bracket, rest = text.partition(" (")
            told = escape(middle) + (f" <small>({escape(rest)}</small>" if bracket and i >= shown.n_settings else "")
            if i < shown.n_settings:
                told = escape(text)
            right = ' class="number"' if i >= shown.n_settings else ""
            cells.append(f'<td{right} data-key="{escape(str(plain))}">{told}</td>')
        rows.append(f'<tr data-group="{n}"{" class=front" if front[n] else ""}>{"".join(cells)}</tr>')
    return Html(
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_many(len(rows), "group")} of runs">'
        '<table class="sortable">'
        f"<thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _breakable(name: str) -> str:
    return escape(name).replace("/", "/<wbr>").replace("_", "_<wbr>")
