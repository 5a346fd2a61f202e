"""What the documentation promises: its pages, sections, files and commands, read from the Markdown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
ANSI_C = re.compile(r"\$'((?:[^'\\]|\\.)*)'")
VARIABLE = re.compile(r"[A-Z_]+=\S*")


class Command(NamedTuple):
    """A line of a bash block."""

    page: str
    words: list[str]
    """As the shell would split it, without comments and without variables set before it."""

    @property
    def label(self) -> str:
        """Names it in a test's id."""
        return f"{self.page}: {' '.join(self.words)}"

    @property
    def verb(self) -> str:
        """Of an ``s15erav3`` command."""
        return self.words[1]

    @property
    def arguments(self) -> list[str]:
        """What follows the verb."""
        return self.words[2:]


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks in a language."""
    return [body for name, body in FENCE.findall(text) if name == language]


def prose(text: str) -> str:
    """Markdown without its fenced blocks."""
    return FENCE.sub("", text)


def sections(text: str) -> dict[str, str]:
    """The text under each second-level heading that stands outside of fenced blocks."""
    parts = re.split(r"^## (.+)\n", FENCE.sub(lambda m: m[0].replace("\n## ", "\n\0## "), text), flags=re.MULTILINE)
    return {head: body.replace("\0", "") for head, body in zip(parts[1::2], parts[2::2], strict=True)}


def files(text: str) -> dict[str, str]:
    """Python and YAML blocks whose first line is a comment with a file's name, by that name."""
    named = (re.match(r"# (\S+\.(?:py|yaml))\b[^\n]*\n", b) for b in [*blocks(text, "python"), *blocks(text, "yaml")])
    return {found[1]: found.string[found.end() :] for found in named if found}


def split(line: str) -> list[str]:
    """A shell line as words; ``$'...'`` is understood, ``$NAME`` is left as it is."""
    line = ANSI_C.sub(lambda found: shlex.quote(found[1].encode().decode("unicode_escape")), line)
    words = shlex.split(line, comments=True)
    while words and VARIABLE.fullmatch(words[0]):
        words.pop(0)
    return words


def commands_of(text: str, page: str) -> Iterator[Command]:
    """Every line of every bash block; ``&&`` joins two."""
    for block in blocks(text, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split(" && "):
                if words := split(part):
                    yield Command(page, words)


def commands(program: str | None = None) -> list[Command]:
    """All commands of all pages, or those of a program, each once."""
    found = [c for page in PAGES for c in commands_of(page.read_text(), page.name)]
    once = {tuple(c.words): c for c in reversed(found) if program in (None, c.words[0])}
    return list(reversed(once.values()))
