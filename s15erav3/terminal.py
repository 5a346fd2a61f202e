"""Print to a terminal or a file, and format commands and paths for the user to type."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleDimensions

from s15erav3.ranks import is_first_rank


class Output(Console):
    """A console for plain text. It checks at each print whether it is a terminal, since output may be redirected.

    In a file, lines are up to ``file_width`` long and have no trailing blanks.

    Args:
        stderr: print to standard error (messages) instead of standard output (results).
        file_width: line width in a file, in columns.
    """

    def __init__(self, *, stderr: bool, file_width: int = 140) -> None:
        # Brackets and colons in texts, names and paths must not be parsed as markup or emoji.
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)
        self.file_width = file_width

    @property  # type: ignore[misc]  # rich can also set it
    def size(self) -> ConsoleDimensions:
        """Size in columns and lines."""
        found = super().size
        return found if self.is_terminal else ConsoleDimensions(self.file_width, found.height)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print with rich; in a file without the trailing blanks of tables and without styles.

        rich keeps styles on if the console was created in a terminal and the process is redirected later, as in jobs.
        """
        if self.is_terminal:
            super().print(*objects, **options)
            return
        with self.capture() as captured:
            super().print(*objects, **options)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", captured.get())
        self.file.write(re.sub(r"[ \t]+$", "", plain, flags=re.MULTILINE))
        self.file.flush()


console = Output(stderr=True)
"""Console for messages."""
results = Output(stderr=False)
"""Console for the results of a verb, which may be redirected to a file or a pipe."""


def say(text: str, *, words: bool = False) -> None:
    """Print one plain line to the user, from the first rank only.

    Args:
        words: wrap long lines between words. Otherwise the terminal breaks them itself, so that a line such as a
            command is copied as one line.
    """
    if is_first_rank():
        console.print(text, soft_wrap=not (words and console.is_terminal))


def program() -> str:
    """The program name as it was called, for commands that can be pasted."""
    called = Path(sys.argv[0])
    return (
        f"{Path(sys.executable).name} -m s15erav3" if called.name == "__main__.py" else shlex.quote(str(short(called)))
    )


def short(path: Path) -> Path:
    """The path relative to the working folder, if that is shorter to type."""
    path, here = path.absolute(), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
