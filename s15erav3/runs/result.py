"""``result.json``: how a run ended, and which version of the program ran it."""

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
    """Write ``result.json``, which marks a run as ended."""
    replace_text(run_dir / "result.json", json.dumps(result, indent=2) + "\n", durable=True)


def read_status(run_dir: Path) -> str:
    """Return a run's status from ``result.json``; empty if it has not ended, or if the file cannot be read."""
    try:
        return str(json.loads((run_dir / "result.json").read_text())["status"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return ""


def provenance() -> dict[str, Any]:
    """Return versions, git commit and digest of the running code."""
    packages = ("torch", "lightning", "hydra-core", "tiktoken", "wandb")
    return {
        "versions": {"s15erav3": __version__, "python": platform.python_version()}
        | {package: version(package) for package in packages},
        "git_commit": git_commit(Path(__file__).parents[2]),
        "code": code(),
    }


def git_commit(root: Path) -> str | None:
    """Return the commit of a source tree, with ``+changes`` if edited; ``None`` if there is none."""
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
