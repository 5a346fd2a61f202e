"""Resuming a sweep: its command, which is stored in its folder, and the remaining work of each job."""

from __future__ import annotations

import json
import os
import shlex
import socket
import time
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple

from omegaconf import DictConfig, OmegaConf

from s15erav3.cli.flags import split
from s15erav3.cli.overrides import key_of, quote
from s15erav3.cli.trust import check_arguments
from s15erav3.errors import UserError
from s15erav3.files import at_home, replace_text
from s15erav3.runs.checkpoint import candidates, is_archive
from s15erav3.runs.code import code
from s15erav3.runs.identity import differences
from s15erav3.runs.progress import is_alive
from s15erav3.runs.reader import from_yaml, read_run
from s15erav3.sweeps.objective import PRUNED

FILE = Path(".sweep") / "command.json"
"""File of a sweep's command, within the sweep's folder."""
OTHER_CODE = "it was trained by different code"


class Found(NamedTuple):
    """The state of a job's folder."""

    state: Literal["fresh", "done", "resume", "again", "queued"]
    """Empty; complete or pruned; has a checkpoint to resume from; has to start over; in the queue of a cluster."""
    why: str
    """Why the job has to start over, or a note on a complete one; empty otherwise."""
    result: dict[str, Any]
    """Content of ``result.json``, else of ``progress.json``; empty if there is neither."""


def examine(cfg: DictConfig, folder: Path) -> Found:
    """Inspect a job's folder without changing it.

    Args:
        cfg: the config that the job would have now, without Hydra's part.

    Raises:
        UserError: the folder holds a run with different settings or a running one, or ``sweep.code`` is invalid.
    """
    if cfg.sweep.code not in ("keep", "retrain"):
        raise UserError(f"sweep.code={cfg.sweep.code} must be keep or retrain: what to do with runs of older code.")
    parts = (".hydra/config.yaml", "result.json", "metrics.csv", "checkpoints")
    if not any((folder / part).exists() for part in parts):
        return Found("fresh", "", {})
    run = read_run(folder)
    if run.status == "broken":
        return Found("again", run.reason, {})
    can_go_on = any(is_archive(file) for file in candidates(folder))
    if run.status == "failed" and not can_go_on:  # with any settings: the wrong one was corrected
        return Found("again", "it failed before its first checkpoint", run.result)
    if run.status == "running" and is_others(run.result):
        raise UserError(
            f"the run in {folder} is still running (process {run.result['pid']} on {run.result['host']}); wait for it, "
            f"or stop it; if there is no such run, remove {shlex.quote(str(folder / 'progress.json'))}."
        )
    changed = list(differences(run.config, from_yaml(OmegaConf.to_yaml(cfg))))
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(
            f"{folder} holds a run with other settings ({'; '.join(changed[:3])}{more}); a sweep resumes only with the "
            "same command: choose another sweep.name."
        )
    if run.status in ("completed", PRUNED):
        older = "" if run.result.get("code") == code() else OTHER_CODE
        return Found("again" if older and cfg.sweep.code == "retrain" else "done", older, run.result)
    if run.result.get("error") == "Diverged":
        return Found("again", "it diverged", run.result)
    if can_go_on:
        return Found("resume", "", run.result)
    return Found("again", "it ended before its first checkpoint", run.result)


def is_others(progress: dict[str, Any]) -> bool:
    """Return whether another process is running the job.

    A process on another machine must have written within the last minute, as a cluster may restart a job soon after
    losing a machine.
    """
    if progress.get("host") != socket.gethostname():
        return time.time() - float(progress.get("time", 0)) < 60
    return progress.get("pid") != os.getpid() and is_alive(progress)


def set_aside(folder: Path, sweep: Path) -> Path:
    """Move the content of a job's folder to the sweep's ``.superseded/``; ``train.log`` stays and is continued.

    Returns:
        its new folder.
    """
    name = os.path.relpath(folder, sweep).replace(os.sep, "_")
    places = (sweep / ".superseded" / f"{name}-{number}" for number in count(1))
    target = next(place for place in places if not place.exists())
    target.parent.mkdir(exist_ok=True)
    folder.rename(target)
    folder.mkdir()
    if (target / "train.log").exists():
        (target / "train.log").rename(folder / "train.log")
    return target


class Command(NamedTuple):
    """The arguments of a command, and its working directory."""

    arguments: list[str]
    folder: Path


def save_command(sweep: Path, arguments: list[str]) -> None:
    """Save the arguments typed after ``train``, and the working directory."""
    file = sweep / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_text(file, json.dumps({"arguments": arguments, "folder": str(Path.cwd())}, indent=2) + "\n")


def repeated(wanted: str, changes: list[str]) -> Command:
    """Return the command of the sweep in the folder ``wanted``, modified by ``changes``.

    Args:
        changes: overrides, which replace those of the same key, and flags.

    Raises:
        UserError: there is no sweep.
    """
    sweep = at_home(wanted).absolute()
    try:
        kept = json.loads((sweep / FILE).read_text())
        arguments, folder = [str(a) for a in kept["arguments"]], Path(kept["folder"])
    except OSError as error:
        where = "does not exist" if not sweep.exists() else f"holds no sweep: it has no {FILE}"
        raise UserError(f"sweep.resume={wanted} {where}; give the folder that a sweep was made in.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{shlex.quote(str(sweep / FILE))} cannot be read ({error!r}); type the sweep's command again."
        ) from error
    changed = {key_of(word) for word in split(changes).words} | {"hydra.sweep.dir", "sweep.wait"}
    arguments = [a for a in arguments if a.startswith("-") or key_of(a) not in changed]
    check_arguments(arguments, sweep / FILE)
    more = [change for change in changes if change not in ("-m", "--multirun")]
    return Command(
        [*arguments, *more, f"hydra.sweep.dir={quote(str(sweep))}"], folder if folder.is_dir() else Path.cwd()
    )
