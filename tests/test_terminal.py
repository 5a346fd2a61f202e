"""What is printed where: a terminal, a file, and a process that goes from the one to the other."""

from __future__ import annotations

import io

import pytest
from rich.table import Table

from s15erav3.terminal import Output


class Screen(io.StringIO):
    """Says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def table() -> Table:
    """With a bold title and cells of several lengths."""
    found = Table.grid(padding=(0, 2))
    found.title, found.title_style, found.title_justify = "title [x] :smile:", "bold", "left"
    found.add_row("a", "b" * 50)
    found.add_row("a", "b")
    return found


def test_a_console_of_a_terminal_writes_a_plain_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """As jobs do, whose processes are forked from one that has a terminal: no styles, no blanks at the ends."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr("sys.stderr", screen := Screen())
    console = Output(stderr=True)
    console.print(table())
    assert "\x1b[1m" in screen.getvalue() and console.is_terminal
    monkeypatch.setattr("sys.stderr", file := io.StringIO())
    console.print(table())
    console.print("word " * 40)
    assert file.getvalue().split("\n")[:3] == ["title [x] :smile:", f"a  {'b' * 50}", "a  b"]
    assert [len(line) for line in file.getvalue().split("\n")[3:]] == [139, 59, 0]


def test_results_and_messages_go_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output can be sent into a file."""
    Output(stderr=False).print("result")
    Output(stderr=True).print("message")
    assert capsys.readouterr() == ("result\n", "message\n")
