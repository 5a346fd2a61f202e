"""What is measured of a run after its training, added to its W&B run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from s15erav3.errors import one_line
from s15erav3.loggers.wandb_history import STEP
from s15erav3.loggers.wandb_server import end, start, sync_command, tell, within
from s15erav3.runs.reader import read_run

TARGET = "s15erav3.loggers.wandb.wandb_logger"
KEPT = ("project", "entity", "group", "name", "tags", "init_timeout", "finish_timeout")
"""Settings of ``logger.wandb`` that say which run it is. A checkpoint may name others, which are not followed."""


class Table(NamedTuple):
    """Rows of equal length under a header."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


def log_later(
    folder: Path, config: Mapping[str, Any], step: int, tables: Mapping[str, Table], figures: Mapping[str, Any]
) -> None:
    """Add a row with tables and Plotly figures to the W&B run of a folder.

    A run that is still training is left alone, as its own process writes there. That, errors of W&B, and a run that was
    not logged to it are told in a sentence.

    Args:
        folder: the run's folder, with W&B's files below ``wandb/``.
        config: the run's config, as in its checkpoint.
        step: optimizer steps of the checkpoint that was measured.
    """
    loggers = config.get("logger")
    its = [one for one in loggers.values() if isinstance(one, dict)] if isinstance(loggers, dict) else []
    settings = next((one for one in its if one.get("_target_") == TARGET), None)
    if settings is None or not (folder / "wandb" / "run-id.txt").is_file():
        tell(f"W&B was not told, as {folder} is not the folder of a run that was logged there (logger=wandb)")
        return
    status = read_run(folder).status
    if status == "running":
        tell("W&B was not told, as the run is still training and writes there itself; evaluate it again later")
        return
    try:
        _log({"finish_timeout": 120.0} | {k: settings[k] for k in KEPT if k in settings}, folder, step, tables, figures,
             int(status != "completed"))  # fmt: skip
    except Exception as error:  # what was measured is in its files already
        tell(f"W&B was not told ({type(error).__name__}: {one_line(error)})")


def _log(
    settings: dict[str, Any],
    folder: Path,
    step: int,
    tables: Mapping[str, Table],
    figures: Mapping[str, Any],
    exit_code: int,
) -> None:
    run = start(folder, **{"init_timeout": 20.0} | settings)
    import wandb

    def send() -> None:  # a table may wait for the server
        row = {
            name: wandb.Table(columns=list(its.header), data=[list(r) for r in its.rows])
            for name, its in tables.items()
        }
        run.log(row | {name: wandb.Plotly(figure) for name, figure in figures.items()} | {STEP: step})

    missing = within(settings["finish_timeout"], send)
    whole = end(run, exit_code)
    if missing:
        tell(f"W&B did not receive {', '.join([*tables, *figures])} ({missing})")
    elif run.settings._offline or not whole:
        tell(f"W&B has not received {', '.join([*tables, *figures])} yet; send it with: {sync_command(run)}")
