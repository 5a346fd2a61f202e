"""``s15erav3 compare``: the runs of sweeps side by side, as a table, as CSV, as Markdown and as a page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, ListConfig
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from s15erav3.cli import hydra_setup
from s15erav3.cli.flags import split
from s15erav3.cli.overrides import is_place, key_of, quote_list
from s15erav3.comparison.groups import BPB, Group, cautions, groups, metrics, ordered, states
from s15erav3.comparison.page import write_comparison
from s15erav3.comparison.tables import Grid, grid, left_out, markdown, to_csv
from s15erav3.errors import UserError, check_flag, check_number, nearest
from s15erav3.files import at_home, replace_text
from s15erav3.runs.reader import Run, find_runs, read_run

SAMPLE = 10
"""Runs that do not count which the terminal lists."""


class Compared(NamedTuple):
    """What there is to show of the runs."""

    title: str
    runs: list[Run]
    groups: list[Group]
    grid: Grid
    cautions: list[str]
    left_out: list[list[str]]


def main(arguments: list[str]) -> int:
    """Entry point of the verb; see ``s15erav3 compare --help``."""
    hydra_setup.run("compare", compare, with_folders(arguments))
    return 0


def with_folders(arguments: list[str]) -> list[str]:
    """Turn the leading folders of ``s15erav3 compare DIR ...`` into the setting ``folders=[DIR,...]``.

    Raises:
        UserError: none is given.
    """
    line = split(arguments)
    if any("=" in word and key_of(word) == "folders" for word in line.words):
        return arguments
    folders = list(takewhile(is_place, line.words))
    if not folders and line.only_tells:
        return arguments
    if not folders:
        raise UserError("compare needs a folder first: s15erav3 compare SWEEP_DIR... [SETTING=VALUE ...]")
    return [*line.flags, f"folders={quote_list(folders)}", *line.words[len(folders) :]]


def compare(cfg: DictConfig) -> None:
    """Read the runs, print the table, write the three files.

    Raises:
        UserError: there is no run, or a setting is unusable.
    """
    check_flag("descending", cfg.descending)
    check_flag("unfinished", cfg.unfinished)
    check_number("rows", cfg.rows, at_least=1, whole=True)
    folders = [str(f) for f in (cfg.folders if isinstance(cfg.folders, ListConfig) else [cfg.folders])]
    runs = read(folders)
    known = {*metrics(runs), BPB}  # which a sweep that has just begun does not tell yet
    sort = str(cfg.sort).removeprefix("-")
    asked = cfg.metrics if cfg.metrics is None or isinstance(cfg.metrics, ListConfig) else [cfg.metrics]
    wanted = None if asked is None else [str(m) for m in asked]
    for key, name in [("sort", sort), *(("metrics", name) for name in wanted or ())]:
        if name not in known:
            raise UserError(f"{key}={name} is no metric of these runs; {nearest(name, known)}")
    descending = cfg.descending or str(cfg.sort).startswith("-")
    compared = arrange(folders, runs, sort, descending=descending, unfinished=cfg.unfinished, wanted=wanted)
    output = at_home(str(cfg.output or folders[0]))
    write(compared, output, sort, descending)
    show(compared, int(cfg.rows), output)


def gather(*folders: str, sort: str = BPB, descending: bool = False, unfinished: bool = False) -> Compared:
    """The runs below the folders in groups, sorted by a metric.

    Raises:
        UserError: there is no run.
    """
    return arrange(folders, read(folders), sort, descending=descending, unfinished=unfinished)


def arrange(
    folders: Sequence[str],
    runs: list[Run],
    sort: str,
    *,
    descending: bool,
    unfinished: bool,
    wanted: list[str] | None = None,
) -> Compared:
    """Group the runs of the folders, and say what there is to know of the groups."""
    found = ordered(groups(runs, unfinished=unfinished), sort, descending=descending)
    title = "Comparison of " + ", ".join(folders)
    return Compared(title, runs, found, grid(found, wanted), cautions(found), left_out(runs, found))


def read(folders: Sequence[str]) -> list[Run]:
    """Every run at or below the folders, each once.

    Raises:
        UserError: a folder is not there, or none holds a run.
    """
    found: dict[Path, Path] = {}
    for name in folders:
        folder = at_home(name)
        if not folder.is_dir():
            raise UserError(f"{name} is no folder; give a sweep's, such as multirun/NAME, or a run's.")
        for run in find_runs(folder):
            found.setdefault(run.resolve(), run)
    if not found:
        raise UserError(
            f"there is no run below {', '.join(folders)} (a run's folder holds .hydra/config.yaml); give the folder of "
            "a sweep or a run."
        )
    return [read_run(folder) for folder in found.values()]


def write(compared: Compared, output: Path, sort: str, descending: bool) -> None:
    """Write ``compare.csv``, ``compare.md`` and ``compare.html``, each whole or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name, text in (
            ("compare.csv", to_csv(compared.runs, compared.groups)),
            ("compare.md", to_markdown(compared)),
        ):
            replace_text(output / name, text)
        write_comparison(
            output / "compare.html",
            compared.title,
            compared.groups,
            compared.runs,
            compared.grid,
            compared.cautions,
            compared.left_out,
            sort,
            descending=descending,
        )
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}; give output=FOLDER.") from error


def to_markdown(compared: Compared) -> str:
    """The table of groups, what to know before it, and the runs that do not count."""
    text = f"# {compared.title}\n\n{counts(compared)}\n\n"
    text += "".join(f"- {caution}\n" for caution in compared.cautions) + ("\n" if compared.cautions else "")
    shown = compared.grid
    text += markdown(shown.header, shown.rows, shown.n_settings)
    if shown.same:
        text += "\nThe same in all: " + ", ".join(f"{name} {value}" for name, value in shown.same.items()) + ".\n"
    if compared.left_out:
        text += "\n## Failed and unfinished\n\n" + markdown(["run", "state", "why, or how far"], compared.left_out, 3)
    return text


def counts(compared: Compared) -> str:
    """How many runs are in which state."""
    each = ", ".join(f"{n:,} {state}" for state, n in states(compared.runs).items())
    n = len(compared.runs)
    return f"{n:,} run{'s' if n > 1 else ''}: {each}. Median (lowest to highest) over the runs of a group that count."


def show(compared: Compared, rows: int, output: Path) -> None:
    """Print the table and what does not stand in it."""
    console = Console(highlight=False)
    if not console.is_terminal:  # a file has no width
        console.width = 160
    shown = compared.grid
    console.print(compared.title, style="bold", markup=False, soft_wrap=True)
    if compared.groups:
        console.print(terminal_table(compared, rows, console.width))
    if len(shown.rows) > rows:
        console.print(f"{rows} of {len(shown.rows):,} groups; rows={len(shown.rows)} shows all", markup=False)
    if shown.same:
        console.print("the same in all: " + ", ".join(f"{k} {v}" for k, v in shown.same.items()), markup=False)
    console.print(counts(compared), markup=False, soft_wrap=True)
    for folder, state, account in compared.left_out[:SAMPLE]:
        console.print(f"  {state}: {folder}{': ' if account else ''}{account}", markup=False, soft_wrap=True)
    if len(compared.left_out) > SAMPLE:
        console.print(f"  and {len(compared.left_out) - SAMPLE:,} more, in compare.md", markup=False)
    for caution in compared.cautions:
        console.print(f"note: {caution}", markup=False, soft_wrap=True)
    console.print(f"wrote {output}: compare.csv, compare.md, compare.html", markup=False, soft_wrap=True)


def terminal_table(compared: Compared, rows: int, width: int) -> Table:
    """The table; where it is too wide, only the first two metrics tell their range."""
    shown = compared.grid
    for variant in (shown, without_ranges(shown, 2)):
        table = Table(box=box.SIMPLE_HEAD)
        for i, name in enumerate(variant.header):
            left = i < variant.n_settings
            table.add_column(escape(broken(name)), justify="left" if left else "right", overflow="fold")
        for row in variant.rows[:rows]:
            table.add_row(*map(escape, row))
        if Console(width=10_000).measure(table).maximum <= width:
            break
    return table


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
