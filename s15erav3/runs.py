"""A run's folder: what lies where, what a resumed run takes back, how the run ended."""

from __future__ import annotations

import csv
import json
import os
import platform
import shlex
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from s15erav3 import __version__
from s15erav3.checkpoint import Payload, candidates, load_checkpoint
from s15erav3.errors import UserError

RECORDS = ("balance.jsonl", "samples.jsonl")


def is_first_rank() -> bool:
    """Whether this process is the one that writes; the other ranks of a distributed run are started with a rank."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "RANK"))


def refuse_taken(arguments: list[str]) -> None:
    """Look before Hydra does: it would write its config over that of a run or sweep that is already there.

    Args:
        arguments: the command line of ``train``, for the places that it names itself; default places are new.

    Raises:
        UserError: the folder holds a run or a sweep.
    """
    named = {key: value.strip("'\"") for key, _, value in (a.partition("=") for a in arguments)}
    if any(a in ("-m", "--multirun") for a in arguments):
        sweep = named.get("hydra.sweep.dir") or f"multirun/{named.get('sweep.name', '')}"
        if (Path(sweep) / "multirun.yaml").exists():
            raise UserError(f"{sweep} already holds a sweep; choose another sweep.name, or remove the folder.")
    elif "hydra.run.dir" in named:
        claim(Path(named["hydra.run.dir"]))


def claim(run_dir: Path) -> None:
    """Make sure that ``run_dir`` does not hold a run yet.

    Raises:
        UserError: it does.
    """
    for name in ("result.json", "metrics.csv", "checkpoints"):
        if (run_dir / name).exists():
            place = shlex.quote(str(run_dir))
            raise UserError(f"{place} already holds a run ({name}); take resume={place}, or choose another folder.")


def discard(run_dir: Path) -> None:
    """Remove the folder of a run that never began, if it holds nothing but its config."""
    hydra = run_dir / ".hydra"
    if {p.name for p in run_dir.iterdir()} <= {".hydra"}:
        for file in hydra.glob("*"):
            file.unlink()
        if hydra.exists():
            hydra.rmdir()
        run_dir.rmdir()


def resume_point(wanted: str, outputs: Path) -> tuple[Path, Path, Payload]:
    """Folder, checkpoint file and checkpoint that ``resume=`` means.

    ``last`` is the newest run below ``outputs``. In a run's folder the readable checkpoint with the most
    steps is taken: after a kill the files need not agree.

    Raises:
        UserError: there is nothing to resume.
    """
    path = Path(wanted).expanduser()
    if wanted == "last":
        newest = max(outputs.rglob("checkpoints/*.ckpt"), key=lambda f: f.stat().st_mtime, default=None)
        if newest is None:
            raise UserError(f"resume=last found no checkpoint below {outputs.resolve()}; name a run's folder.")
        path = newest.parent.parent
    if path.is_file():
        run_dir = path.resolve().parent.parent
        if not (run_dir / ".hydra" / "config.yaml").is_file():
            raise UserError(f"resume={wanted} does not lie in a run's folder: {run_dir} has no .hydra/config.yaml.")
        return run_dir, path.resolve(), load_checkpoint(path)
    if not (path / ".hydra" / "config.yaml").is_file():
        raise UserError(f"resume={wanted} is neither a checkpoint nor a run's folder (it has no .hydra/config.yaml).")
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


def rewind(run_dir: Path, step: int) -> None:
    """Drop what the run recorded after ``step``, which the resumed run will record again."""
    for file in candidates(run_dir):  # of a branch that is now given up
        try:
            later = load_checkpoint(file)["global_step"] > step
        except UserError:
            later = True
        if later:
            file.unlink()
    for name in RECORDS:
        file = run_dir / name
        if file.exists():
            lines = [line for line in file.read_text().splitlines() if _step_of(line) <= step]
            replace_text(file, "".join(line + "\n" for line in lines))
    metrics = run_dir / "metrics.csv"
    if metrics.exists():
        with metrics.open(newline="") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or []
            rows = [row for row in reader if row["step"] and int(row["step"]) <= step]
        scratch = metrics.with_suffix(".csv.partial")
        with scratch.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows(rows)
        scratch.replace(metrics)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except ValueError:  # a line that a kill cut short
        return float("inf")


def write_result(run_dir: Path, result: dict[str, Any]) -> None:
    """Write ``result.json``, the sign that a run has ended."""
    replace_text(run_dir / "result.json", json.dumps(result, indent=2) + "\n")


def replace_text(file: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    scratch = file.with_name(file.name + ".partial")
    scratch.write_text(text)
    scratch.replace(file)


def provenance() -> dict[str, Any]:
    """Versions and the git commit of the code that runs."""
    packages = ("torch", "lightning", "hydra-core", "tiktoken", "wandb")
    return {
        "versions": {"s15erav3": __version__, "python": platform.python_version()}
        | {package: version(package) for package in packages},
        "git_commit": _git_commit(),
    }


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
