"""``result.json``: how a run ended, and by which program."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from s15erav3 import __version__
from s15erav3.files import replace_text
from s15erav3.runs.code import code


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
        "git_commit": git_commit(Path(__file__).parents[2]),
        "code": code(),
    }


def git_commit(root: Path) -> str | None:
    """Commit of a source tree, with ``+changes`` if it was edited; ``None`` without one, as of an installed package."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None
    commit = next(line.split()[2] for line in said if line.startswith("# branch.oid "))
    edited = any(not line.startswith("#") for line in said)
    return None if commit == "(initial)" else commit + ("+changes" if edited else "")
