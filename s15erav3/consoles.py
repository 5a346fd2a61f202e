"""Where the program prints: a terminal of some width, or a file, which has none."""

from __future__ import annotations

import re
from typing import Any

from rich.console import Console, ConsoleDimensions


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

    @property
    def size(self) -> ConsoleDimensions:
        """Columns and lines."""
        found = super().size
        return found if self.is_terminal else ConsoleDimensions(self.file_width, found.height)

    def print(self, *objects: Any, **options: Any) -> None:
        """Rich's own, but for the blanks with which it fills up the lines of a table."""
        if self.is_terminal:
            super().print(*objects, **options)
            return
        with self.capture() as captured:
            super().print(*objects, **options)
        self.file.write(re.sub(r"[ \t]+$", "", captured.get(), flags=re.MULTILINE))
        self.file.flush()
