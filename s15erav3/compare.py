"""``s15erav3 compare``: compare the runs of sweeps in a table, as CSV, as Markdown and as an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from s15erav3.cli import hydra_setup
from s15erav3.cli.flags import split
from s15erav3.cli.overrides import is_place, key_of, quote_list
from s15erav3.comparison.groups import BPB, cautions, groups, metrics, ordered
from s15erav3.comparison.markdown import Compared, counts, to_markdown
from s15erav3.comparison.page import write_comparison
from s15erav3.comparison.statistics import statistics
from s15erav3.comparison.tables import grid, left_out, to_csv
from s15erav3.comparison.terminal_table import fitted
from s15erav3.errors import UserError, nearest
from s15erav3.files import at_home, replace_text
from s15erav3.runs.reader import Run, find_runs, read_run
from s15erav3.terminal import Output

SAMPLE = 10
"""Largest number of excluded runs that the terminal lists."""


def main(arguments: list[str]) -> int:
    """Entry point of the verb; see ``s15erav3 compare --help``."""
    hydra_setup.run("compare", compare, with_folders(arguments))
    return 0


def with_folders(arguments: list[str]) -> list[str]:
    """Turn the leading folders of ``s15erav3 compare DIR ...`` into the setting ``folders=[DIR,...]``.

    Raises:
        UserError: no folder is given.
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
    folders = [str(f) for f in (cfg.folders if isinstance(cfg.folders, ListConfig) else [cfg.folders])]
    runs = read(folders)
    known = {*metrics(runs), BPB}  # a sweep that has just started has no BPB yet
    sort = str(cfg.sort).removeprefix("-")
    asked = cfg.metrics if cfg.metrics is None or isinstance(cfg.metrics, ListConfig) else [cfg.metrics]
    wanted = None if asked is None else [str(m) for m in asked]
    for key, name in [("sort", sort), *(("metrics", name) for name in wanted or ())]:
        if name not in known:
            raise UserError(f"{key}={name} is not a metric of these runs; {nearest(name, known)}")
    descending = cfg.descending or str(cfg.sort).startswith("-")
    compared = arrange(folders, runs, sort, descending=descending, unfinished=cfg.unfinished, wanted=wanted)
    output = at_home(str(cfg.output or folders[0]))
    write(compared, output, sort, descending)
    show(compared, int(cfg.rows), output, sort)


def gather(*folders: str, sort: str = BPB, descending: bool = False, unfinished: bool = False) -> Compared:
    """Collect the runs below the folders in groups, sorted by a metric.

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
    """Group the runs of the folders, and add notes about the groups."""
    found = ordered(groups(runs, unfinished=unfinished), sort, descending=descending)
    title = "Comparison of " + ", ".join(folders)
    shown = grid(found, wanted)
    said = statistics(found, shown.labels)
    return Compared(title, runs, found, shown, cautions(found), left_out(runs, found), said)


def read(folders: Sequence[str]) -> list[Run]:
    """Every run at or below the folders, each once.

    Raises:
        UserError: a folder does not exist, or none contains a run.
    """
    found: dict[Path, Path] = {}
    for name in folders:
        folder = at_home(name)
        if not folder.is_dir():
            raise UserError(f"{name} is not a folder; give a sweep's, such as multirun/NAME, or a run's.")
        for run in find_runs(folder):
            found.setdefault(run.resolve(), run)
    if not found:
        raise UserError(
            f"there is no run below {', '.join(folders)} (a run's folder holds .hydra/config.yaml); give the folder of "
            "a sweep or a run."
        )
    return [read_run(folder) for folder in found.values()]


def write(compared: Compared, output: Path, sort: str, descending: bool) -> None:
    """Write ``compare.csv``, ``compare.md`` and ``compare.html``, each atomically.

    Raises:
        UserError: the folder is not writable.
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
            compared.statistics,
            sort,
            descending=descending,
        )
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}; give output=FOLDER.") from error


def show(compared: Compared, rows: int, output: Path, sort: str = BPB) -> None:
    """Print the table, the notes and the excluded runs."""
    console = Output(stderr=False, file_width=160)
    shown = compared.grid
    console.print(compared.title, style="bold", soft_wrap=True)
    if compared.groups:
        table, left_out = fitted(shown, rows, console.width, {BPB, sort})
        console.print(table)
        if left_out:
            console.print(f"too wide for {console.width} columns, see compare.md: {', '.join(left_out)}")
    if len(shown.rows) > rows:
        console.print(f"{rows} of {len(shown.rows):,} groups; rows={len(shown.rows)} shows all")
    if shown.same:
        console.print("the same in all: " + ", ".join(f"{k} {v}" for k, v in shown.same.items()))
    console.print(counts(compared), soft_wrap=True)
    for folder, state, account in compared.left_out[:SAMPLE]:
        console.print(f"  {state}: {folder}{': ' if account else ''}{account}", soft_wrap=True)
    if len(compared.left_out) > SAMPLE:
        console.print(f"  and {len(compared.left_out) - SAMPLE:,} more, in compare.md")
    for row in compared.statistics.rows[:rows]:
        name, mean, interval, relative, p, verdict, *_ = row
        console.print(f"  {name}: {mean} ({interval}), {relative}, p {p}: {verdict}", soft_wrap=True, markup=False)
    for note in compared.statistics.notes:
        console.print(note, soft_wrap=True, markup=False)
    for caution in compared.cautions:
        console.print(f"note: {caution}", soft_wrap=True)
    console.print(f"wrote {output}: compare.csv, compare.md, compare.html", soft_wrap=True)
