"""What the program prints, in a terminal of some width or a file, which has none; how it and its files are typed."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleDimensions

from s15erav3.ranks import is_first_rank


class Output(Console):
    """A console for plain text. It looks at each print whether it is a terminal, as processes redirect their output.

    In a file, lines are as long as ``file_width`` allows and have no blanks at their ends.

    Args:
        stderr: whether messages go here, or results.
        file_width: columns of a file.
    """

    def __init__(self, *, stderr: bool, file_width: int = 140) -> None:
        # Texts, names and paths may have brackets and colons in them, which are neither markup nor emoji.
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)
        self.file_width = file_width

    @property  # type: ignore[misc]  # rich can also set it
    def size(self) -> ConsoleDimensions:
        """Columns and lines."""
        found = super().size
        return found if self.is_terminal else ConsoleDimensions(self.file_width, found.height)

    def print(self, *objects: Any, **options: Any) -> None:
        """Rich's own; in a file without the blanks that fill up the lines of a table, and without styles: those it goes
        on with if it was made for a terminal, which a job's process is redirected from."""
        if self.is_terminal:
            super().print(*objects, **options)
            return
        with self.capture() as captured:
            super().print(*objects, **options)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", captured.get())
        self.file.write(re.sub(r"[ \t]+$", "", plain, flags=re.MULTILINE))
        self.file.flush()


console = Output(stderr=True)
"""For messages."""
results = Output(stderr=False)
"""For what a verb was asked for: it can be sent into a file or a pipe."""


def say(text: str, *, words: bool = False) -> None:
    """One plain line to the user, from the first rank alone.

    Args:
        words: whether a terminal may go on in another line between two words; it breaks others where they are too long,
            so that what was one line is copied as one, as commands have to be.
    """
    if is_first_rank():
        console.print(text, soft_wrap=not (words and console.is_terminal))


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
