"""Lines to the user, from the first rank alone, and this program and its files as the user would type them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from rich.console import Console

from s15erav3.ranks import is_first_rank

# Texts, names and paths may have brackets and colons in them, which are neither markup nor emoji.
console = Console(stderr=True, highlight=False, markup=False, emoji=False)
if not console.is_terminal:  # a log file has no width
    console.width = 140


def say(text: str) -> None:
    """One plain line to the user, from the first rank alone."""
    if is_first_rank():
        console.print(text, soft_wrap=True)


def program() -> str:
    """This program as it was called, for commands that can be pasted."""
    called = Path(sys.argv[0])
    return (
        f"{Path(sys.executable).name} -m s15erav3" if called.name == "__main__.py" else shlex.quote(str(short(called)))
    )


def short(path: Path) -> Path:
    """Relative to the working folder where that is shorter to type."""
    path, here = path.absolute(), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
