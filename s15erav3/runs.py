"""A run's folder: what lies where, what a resumed run takes back, how the run ended."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from s15erav3 import __version__
from s15erav3.checkpoint import Payload, candidates, load_checkpoint
from s15erav3.errors import UserError
from s15erav3.files import at_home, load_yaml, remove_partial, replace_text, whole
from s15erav3.overrides import key_of
from s15erav3.records import RESUMES, read_lines, read_resumes, read_table

RECORDS = ("balance.jsonl", "samples.jsonl")
LOOKING = (
    *("analysis", "figures", "pages", "sweeps", "screen", "report", "compare", "evaluate", "sample", "export"),
    *("dashboard", "notebooks"),
)
"""Parts of the package that look at runs, or start them, and have no influence on what a run learns."""


def is_first_rank() -> bool:
    """Whether this process is the one that writes; the other ranks of a distributed run are started with a rank."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "RANK"))


def claim(run_dir: Path) -> None:
    """Make sure that ``run_dir`` does not hold a run yet.

    Raises:
        UserError: it does, or links in it lead elsewhere.
    """
    for name in ("result.json", "metrics.csv", "checkpoints"):
        if (run_dir / name).exists():
            place = shlex.quote(str(run_dir))
            raise UserError(f"{place} already holds a run ({name}); take resume={place}, or choose another folder.")
    if run_dir.is_dir():
        refuse_links(run_dir)


def write_config(run_dir: Path, cfg: DictConfig, hydra: DictConfig) -> None:
    """Write ``.hydra/``, as Hydra itself would have before anybody could look: the config last, as sign of a run.

    Args:
        cfg: the composed config of the run.
        hydra: the same of Hydra, under its key ``hydra``.

    Raises:
        UserError: the folder cannot be written.
    """
    parts = {"overrides": hydra.hydra.overrides.task, "hydra": hydra, "config": cfg}
    try:
        (run_dir / ".hydra").mkdir(parents=True, exist_ok=True)
        for name, part in parts.items():
            replace_text(run_dir / ".hydra" / f"{name}.yaml", OmegaConf.to_yaml(part))
    except OSError as error:
        raise UserError(
            f"cannot write the run's folder: {error.strerror}: {error.filename}; choose a writable place."
        ) from error


def discard(run_dir: Path) -> None:
    """Remove the folder of a run that never began, if it holds nothing but its config."""
    hydra = run_dir / ".hydra"
    (run_dir / "progress.json").unlink(missing_ok=True)
    if {p.name for p in run_dir.iterdir()} <= {".hydra"}:
        for file in hydra.glob("*"):
            file.unlink()
        if hydra.exists():
            hydra.rmdir()
        run_dir.rmdir()


def resume_point(wanted: str, *places: Path) -> tuple[Path, Path, Payload]:
    """Folder, checkpoint file and checkpoint that ``resume=`` means.

    ``last`` is the run below ``places`` that saved last, hidden folders left out. In a run's folder the readable
    checkpoint with the most steps is taken: after a kill the files need not agree.

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
        why = refused[0] if refused else "it has no checkpoint yet; start it anew."
        raise UserError(f"resume={wanted} cannot be resumed: {why}")
    for reason in refused:
        print(f"passed over: {reason}")
    _, file, payload = max(readable, key=lambda found: found[0])
    return path.resolve(), file.resolve(), payload


def rewind(run_dir: Path, step: int) -> list[str]:
    """Drop what the run recorded after ``step``, which the resumed run will record again, and what a crash left.

    Checkpoints of later steps, and unreadable ones, are set aside in ``.superseded/`` with the records as they were.

    Returns:
        what there is to tell of it, a sentence each.
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
        told += [f"the records as they were lie in {place}"] if dropped and not later else []
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
    """Optimizer steps that a checkpoint was saved after; -1 of one that cannot be read."""
    try:
        return int(load_checkpoint(file)["global_step"])
    except UserError:
        return -1


def set_aside(run_dir: Path, files: Iterable[Path]) -> Path:
    """Move files of a run, and copy its records, to the next free folder in its ``.superseded/``.

    Returns:
        that folder.
    """
    place = next(p for p in (run_dir / ".superseded" / str(n) for n in count(1)) if not p.exists())
    place.mkdir(parents=True)
    for file in files:
        file.rename(place / file.name)
    for name in (*RECORDS, "metrics.csv", "result.json"):
        if (run_dir / name).is_file():
            shutil.copy2(run_dir / name, place / name)
    return place


def refuse_links(run_dir: Path) -> None:
    """Refuse to write into a run's folder in which links lead elsewhere, where what is appended would land, or what
    is to be replaced is no file.

    Raises:
        UserError: with the first of them.
    """
    here = os.path.realpath(run_dir)
    for file in (*run_dir.iterdir(), *(run_dir / "checkpoints").glob("*"), *(run_dir / ".hydra").glob("*")):
        if file.is_symlink() and not Path(os.path.realpath(file)).is_relative_to(here):
            raise UserError(
                f"{file} is a link out of the run's folder, and training would write there; put the file itself in its "
                "place, or remove the link."
            )
    written = [f".hydra/{name}.yaml" for name in ("config", "hydra", "overrides")]
    written += ["progress.json", "result.json", "checkpoints/best.ckpt", "checkpoints/last.ckpt", RESUMES]
    records = [run_dir / name for name in (*RECORDS, "metrics.csv") if not (run_dir / name).is_dir()]
    for file in (*(run_dir / name for name in written), *records):
        if os.path.lexists(file) and not file.is_file():
            raise UserError(f"{file} is no file that the run could go on with; remove it.")


def remember_resume(run_dir: Path, step: int, typed: Iterable[str], changed: dict[str, list[Any]]) -> None:
    """Add a resumption to ``result.json``'s history, and what was typed to ``.hydra/overrides.yaml``.

    Args:
        step: that it goes on from.
        typed: its overrides.
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


def write_result(run_dir: Path, result: dict[str, Any]) -> None:
    """Write ``result.json``, the sign that a run has ended."""
    replace_text(run_dir / "result.json", json.dumps(result, indent=2) + "\n", durable=True)


def read_status(run_dir: Path) -> str:
    """How the run ended, as ``result.json`` says; empty if it has not, or if that cannot be read."""
    try:
        return str(json.loads((run_dir / "result.json").read_text())["status"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return ""


def provenance() -> dict[str, Any]:
    """Versions, git commit and content of the code that runs."""
    packages = ("torch", "lightning", "hydra-core", "tiktoken", "wandb")
    return {
        "versions": {"s15erav3": __version__, "python": platform.python_version()}
        | {package: version(package) for package in packages},
        "git_commit": _git_commit(),
        "code": code(),
    }


@cache
def code() -> str:
    """What this program's source and version are, as 16 hex digits: those parts of it that decide what a run learns.

    Unlike the git commit it stays what it is when a README changes, and changes with an edit that is not committed.
    It is read once in a program: ask for it at the beginning, as the files may be edited while it runs.
    """
    package = Path(__file__).parent
    digest = hashlib.sha256(__version__.encode())
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package)
        if name.parts[0].removesuffix(".py") not in LOOKING:
            digest.update(f"\0{name.as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _git_commit() -> str | None:
    """Commit of the source tree, with ``+changes`` if it was edited; ``None`` for an installed package."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if dirty else "")
