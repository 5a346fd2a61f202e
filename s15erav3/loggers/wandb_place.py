"""Where to view a W&B run, and with which commands; printed at the start of a run and at its end."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from s15erav3.loggers.wandb_server import sync_command


def place(run: Any) -> str:
    """Return the mode, and the folder or URL.

    Args:
        run: W&B's run, which may have ended.
    """
    if run.disabled:
        return "disabled: nothing is kept"
    if run.settings._offline:
        return f"offline, in {_short(Path(run.settings.sync_dir))}"
    return f"online, at {run.url}"


def commands(run: Any) -> list[str]:
    """Return the commands to view the run in the terminal, and to send an offline one."""
    if run.disabled:
        return []
    if not run.settings._offline:
        return [f"wandb leet {shlex.quote(str(run.url))}"]
    folder = Path(run.settings.sync_dir)
    sync = sync_command(run).replace(shlex.quote(str(folder)), shlex.quote(str(_short(folder))))
    return [f"wandb leet {shlex.quote(str(_short(folder.parent)))}", sync]


def _short(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
