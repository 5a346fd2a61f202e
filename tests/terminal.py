"""A terminal to type in, and what it then shows: the program's output is drawn by a terminal emulator of its own."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pexpect
import pyte


class Terminal:
    """A program in a pseudo-terminal.

    Args:
        command: program and arguments.
        columns: of the terminal.
        lines: of the terminal; what scrolls off is kept.
        environment: over that of the tests.
        cwd: where it runs.
    """

    def __init__(
        self, command: list[str], columns: int, *, lines: int = 200, cwd: Path | None = None, **environment: str
    ) -> None:
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.Stream(self._screen)
        self.columns = columns
        env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")}
        env |= {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1", **environment}
        self.process = pexpect.spawn(
            command[0], command[1:], dimensions=(lines, columns), env=env, cwd=cwd, encoding="utf-8", timeout=60
        )

    def type(self, text: str) -> None:
        """Press keys."""
        self.process.send(text)

    def read(self, seconds: float = 0.05) -> str:
        """What stands on the screen after so much more time, without the blanks at the right and empty lines below."""
        with suppress(pexpect.TIMEOUT, pexpect.EOF):
            self._stream.feed(self.process.read_nonblocking(1_000_000, timeout=seconds))
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def until(self, seen: str | Callable[[str], bool], seconds: float = 20) -> str:
        """The screen once it shows a text, or once it is as a function wants it."""
        end = time.monotonic() + seconds
        while True:
            text = self.read()
            if seen in text if isinstance(seen, str) else seen(text):
                return text
            if time.monotonic() > end or not (self.process.isalive() or self.read(0) != text):
                raise AssertionError(f"never seen: {seen}\n{text}")

    def end(self, seconds: float = 120) -> str:
        """The screen when the program has ended."""
        end = time.monotonic() + seconds
        while self.process.isalive():
            self.read()
            assert time.monotonic() < end, self.read()
        text = self.read()
        self.process.close()
        return text

    @property
    def status(self) -> int | None:
        """The exit status of a program that has ended."""
        return self.process.exitstatus

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.close(force=True)


def program(*words: str) -> list[str]:
    """This program with the Python of the tests."""
    return [sys.executable, "-m", "s15erav3", *words]
