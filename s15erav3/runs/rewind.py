"""The state that a run resumes from: its checkpoint, and its records at that step."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from s15erav3.cli.overrides import key_of
from s15erav3.errors import UserError
from s15erav3.files import at_home, load_yaml, remove_partial, replace_text, whole
from s15erav3.runs.checkpoint import Payload, candidates, load_checkpoint
from s15erav3.runs.folder import refuse_links
from s15erav3.runs.parts import parts_of
from s15erav3.runs.records import RECORDS, RESUMES, read_lines, read_resumes, read_table


def resume_point(wanted: str, *places: Path) -> tuple[Path, Path, Payload]:
    """Return the folder, checkpoint file and checkpoint that ``resume=`` refers to.

    ``last`` is the run below ``places`` that saved most recently, hidden folders excluded. Within a run's folder, the
    readable checkpoint with the most steps is used: after a kill the files may be at different steps.

    Raises:
        UserError: there is nothing to resume.
    """
    path = at_home(wanted)
    if wanted == "last":
        below = [(file, file.relative_to(place)) for place in places for file in place.rglob("checkpoints/*.ckpt")]
        found = [file for file, name in below if not any(part.startswith(".") for part in name.parts)]
        newest = max(found, key=lambda f: f.stat().st_mtime, default=None)
        if newest is None:
            looked = " or ".join(str(place.resolve()) for place in places)
            raise UserError(f"resume=last found no checkpoint below {looked}; name a run's folder.")
        path = newest.parent.parent
    if path.is_file():
        run_dir = path.absolute().parent.parent
        if not (run_dir / ".hydra" / "config.yaml").is_file():
            raise UserError(f"resume={wanted} does not lie in a run's folder: {run_dir} has no .hydra/config.yaml.")
        refuse_links(run_dir)
        try:
            return run_dir.resolve(), path.resolve(), load_checkpoint(path)
        except UserError as error:
            others = sorted((_step_of(f), f) for f in candidates(run_dir) if f != path)
            if not others or others[-1][0] < 0:
                raise
            raise UserError(f"{error} The newest intact one of the run is {others[-1][1]}.") from error
    if not (path / ".hydra" / "config.yaml").is_file():
        raise UserError(f"resume={wanted} is neither a checkpoint nor a run's folder (it has no .hydra/config.yaml).")
    refuse_links(path)
    readable: list[tuple[int, Path, Payload]] = []
    refused: list[str] = []
    for file in candidates(path):
        try:
            payload = load_checkpoint(file)
        except UserError as error:
            refused.append(str(error))
            continue
        readable.append((payload["global_step"], file, payload))
    if not readable:
        why = refused[0] if refused else "it has no checkpoint yet; start it again."
        raise UserError(f"resume={wanted} cannot be resumed: {why}")
    for reason in refused:
        print(f"skipped: {reason}")
    _, file, payload = max(readable, key=lambda found: found[0])
    return path.resolve(), file.resolve(), payload


def rewind(run_dir: Path, step: int) -> list[str]:
    """Drop records of steps after ``step``, which the resumed run will record again, and lines damaged by a crash.

    Checkpoints of later steps, and unreadable ones, are set aside in ``.superseded/`` with a copy of the records.

    Returns:
        messages for the user, one sentence each.
    """
    for folder in (run_dir, run_dir / "checkpoints", run_dir / ".hydra"):
        remove_partial(folder)
    records = {name: read_lines(run_dir / name) for name in RECORDS}
    table = read_table(run_dir / "metrics.csv")
    unreadable = {name: lines.dropped for name, lines in records.items()} | {"metrics.csv": table.dropped}
    dropped = {name: count for name, count in unreadable.items() if count}
    folders = [run_dir / name for name in (*RECORDS, "metrics.csv") if (run_dir / name).is_dir()]
    later = [file for file in candidates(run_dir) if not 0 <= _step_of(file) <= step]
    told = [f"{name}: {count} unreadable line(s) dropped" for name, count in dropped.items()]
    if later or folders or dropped:
        place = set_aside(run_dir, [*later, *folders])
        told += [f"{folder.name} is a folder; set aside in {place}" for folder in folders]
        told += [f"the original records are in {place}"] if dropped and not later else []
        if later:
            names = ", ".join(file.name for file in later)
            told.append(
                f"{names}: later than step {step} or damaged; set aside in {place}, with the records up to then"
            )
    for name, lines in records.items():
        kept = [text for row, text in zip(lines.rows, lines.texts, strict=True) if row["step"] <= step]
        if (run_dir / name).exists():
            replace_text(run_dir / name, "".join(text + "\n" for text in kept))
    metrics = run_dir / "metrics.csv"
    if metrics.exists() and not table.columns:
        metrics.unlink()
    elif metrics.exists():
        at = table.columns.index("step")
        with whole(metrics) as stream:
            csv.writer(stream).writerows([table.columns, *(row for row in table.rows if int(row[at]) <= step)])
    return told


def _step_of(file: Path) -> int:
    """Return the optimizer steps after which a checkpoint was saved; -1 if it cannot be read."""
    try:
        return int(load_checkpoint(file)["global_step"])
    except UserError:
        return -1


def set_aside(run_dir: Path, files: Iterable[Path]) -> Path:
    """Move files of a run, and copy its records, to the next free folder in its ``.superseded/``.

    Returns:
        the new folder.
    """
    place = next(p for p in (run_dir / ".superseded" / str(n) for n in count(1)) if not p.exists())
    place.mkdir(parents=True)
    for file in files:
        file.rename(place / file.name)
        if parts_of(file).is_dir():
            parts_of(file).rename(parts_of(place / file.name))
    for name in (*RECORDS, "metrics.csv", "result.json"):
        if (run_dir / name).is_file():
            shutil.copy2(run_dir / name, place / name)
    return place


def remember_resume(run_dir: Path, step: int, typed: Iterable[str], changed: dict[str, list[Any]]) -> None:
    """Add a resumption to the history in ``.hydra/resumed.json``, and the overrides to ``.hydra/overrides.yaml``.

    Args:
        step: the step that the run resumes from.
        typed: the overrides of the resuming command.
        changed: settings that make it another experiment, ``{key: [before, now]}``.
    """
    history = [*read_resumes(run_dir), {"step": step, "run_dir": str(run_dir), "changed": changed}]
    replace_text(run_dir / RESUMES, json.dumps(history, indent=1) + "\n")
    file = run_dir / ".hydra" / "overrides.yaml"
    try:
        before = [str(line) for line in load_yaml(file.read_text()) or []]
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        before = []
    now = {key_of(line): line for line in typed if not key_of(line).startswith("hydra") and key_of(line) != "force"}
    kept = [line for line in before if key_of(line) not in {*now, "run_dir"}]
    replace_text(file, OmegaConf.to_yaml(OmegaConf.create([*kept, *now.values()])))
