"""A run's folder: what lies where, what a resumed run takes back, how the run ended."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
import shlex
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from s15erav3 import __version__
from s15erav3.checkpoint import Payload, candidates, load_checkpoint
from s15erav3.errors import UserError
from s15erav3.files import replace_text, whole

RECORDS = ("balance.jsonl", "samples.jsonl")
LOOKING = ("analysis", "figures", "pages", "sweeps", "screen", "report", "compare", "evaluate", "sample", "export")
"""Parts of the package that look at runs, or start them, and have no influence on what a run learns."""


def is_first_rank() -> bool:
    """Whether this process is the one that writes; the other ranks of a distributed run are started with a rank."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "RANK"))


def claim(run_dir: Path) -> None:
    """Make sure that ``run_dir`` does not hold a run yet.

    Raises:
        UserError: it does.
    """
    for name in ("result.json", "metrics.csv", "checkpoints"):
        if (run_dir / name).exists():
            place = shlex.quote(str(run_dir))
            raise UserError(f"{place} already holds a run ({name}); take resume={place}, or choose another folder.")


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
    path = Path(wanted).expanduser()
    if wanted == "last":
        below = [(file, file.relative_to(place)) for place in places for file in place.rglob("checkpoints/*.ckpt")]
        found = [file for file, name in below if not any(part.startswith(".") for part in name.parts)]
        newest = max(found, key=lambda f: f.stat().st_mtime, default=None)
        if newest is None:
            looked = " or ".join(str(place.resolve()) for place in places)
            raise UserError(f"resume=last found no checkpoint below {looked}; name a run's folder.")
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
        with whole(metrics) as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows(rows)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except ValueError:  # a line that a kill cut short
        return float("inf")


def write_result(run_dir: Path, result: dict[str, Any]) -> None:
    """Write ``result.json``, the sign that a run has ended."""
    replace_text(run_dir / "result.json", json.dumps(result, indent=2) + "\n", durable=True)


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
