"""Reading text as documents."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from s15erav3.data.sources import read_lines, shown, sources, unreadable
from s15erav3.errors import UserError

Format = Literal["ipl", "text"]
DocumentBoundary = Literal["blank_line", "file"]

_HEADER = re.compile(r"^\S.* \d(?:st|nd|rd|th) Inns\s*$")
_OVER = re.compile(r"^(\d{1,4})\.(\d{1,4}) overs?\s*$")  # int() takes no number of any length


class Document(NamedTuple):
    """A piece of text that no split divides. The documents of a file, put together, are the file."""

    text: str
    contents: tuple[str, ...]
    """The commentary of each event, or the text itself, without differences of case and white space.
    Documents that share one of them belong to the same split."""


class Event(NamedTuple):
    """One ball: its innings header ("MI 1st Inns"), over ("13.4"), commentary and source lines."""

    header: str
    over: str
    body: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """UTF-8 text on disk: one file, or the .txt files of a folder in the order of their names (see
    :func:`~s15erav3.data.sources.sources`).

    ``ipl`` documents are innings; ``text`` documents end at blank lines or with the file. A byte-order
    mark is dropped; CRLF and a lone CR become LF.

    Raises:
        UserError: the path is missing, empty, binary or not in the format.
    """

    path: Path
    format: Format = "ipl"
    document: DocumentBoundary = "blank_line"

    def files(self) -> list[Path]:
        """The files to read, at least one."""
        return sources(self.path).files

    def passed_over(self) -> list[str]:
        """Files of the folder that hold no text, each as ``path (why)``."""
        return sources(self.path).passed_over

    def fingerprint(self) -> str:
        """Hash of the content and of how it is divided into documents; the files' place does not count."""
        digest = hashlib.sha256(f"documents-1 {self.format} {self.document}".encode())
        for file in self.files():
            try:
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
            except OSError as error:
                raise unreadable(file, error) from error
        return digest.hexdigest()

    def documents(self) -> Iterator[Document]:
        """All documents in file order, read as a stream unless a file is one document."""
        for file in self.files():
            if self.format == "ipl":
                yield from innings(parse_events(read_lines(file), file))
            elif self.document == "file":
                yield _plain("".join(read_lines(file)))
            else:
                yield from (_plain(text) for text in _paragraphs(read_lines(file)))


def is_commentary(path: Path) -> bool:
    """Whether a file begins as ball-by-ball commentary does, with an innings line and an over line."""
    if not os.path.isfile(path):
        return False
    written = [line for line in itertools.islice(read_lines(path), 10) if not line.isspace()]
    return len(written) > 1 and bool(_HEADER.match(written[0]) and _OVER.match(written[1]))


def _plain(text: str) -> Document:
    return Document(text, (_normal(text),))


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Cut before the first line after a blank one; blank lines stay with what they follow."""
    kept: list[str] = []
    has_text = False
    for line in lines:
        if has_text and not line.isspace() and kept[-1].isspace():
            yield "".join(kept)
            kept, has_text = [], False
        kept.append(line)
        has_text = has_text or not line.isspace()
    if has_text:
        yield "".join(kept)


def parse_events(lines: Iterable[str], source: Path) -> Iterator[Event]:
    """Commentary lines to events: a header line, an over line, then text up to the next header.

    Blank lines between them, several lines of text and a missing final newline are all accepted; every
    line belongs to exactly one event.

    Raises:
        UserError: the text does not begin with an innings header and an over.
    """
    block: list[str] = []
    for line in lines:
        if _OVER.match(line):
            # Only an over makes the line before it a header: commentary, too, may end with "1st Inns".
            written = [i for i, earlier in enumerate(block) if not earlier.isspace()]
            if len(written) > 1 and _HEADER.match(block[written[-1]]):
                yield _event(block[: written[-1]], source)
                block = block[written[-1] :]
        block.append(line)
    if block:
        yield _event(block, source)


def _event(block: list[str], source: Path) -> Event:
    said = [line.strip() for line in block if not line.isspace()]
    over = _OVER.match(said[1]) if len(said) > 1 else None
    if not _HEADER.match(said[0]) or over is None:
        raise UserError(
            f"data.path={shown(source)} is not ball-by-ball commentary: expected an innings line ('MI 1st Inns') and "
            f"an over line ('13.4 overs'), found {said[0][:60]!r}; read other text with data=text."
        )
    return Event(said[0], f"{over[1]}.{over[2]}", " ".join(said[2:]), "".join(block))


def innings(events: Iterable[Event]) -> Iterator[Document]:
    """Join consecutive events of one innings.

    Overs stand in play order or, as scraped, in the order of their text ("1.0", "10.0", "2.0"). A new
    innings of the same side begins where the over falls in both orders.
    """
    current: list[Event] = []
    for event in events:
        if current:
            last = current[-1]
            fell = _number(event.over) < _number(last.over) and event.over < last.over
            if event.header != last.header or fell:
                yield _innings(current)
                current = []
        current.append(event)
    if current:
        yield _innings(current)


def _number(over: str) -> tuple[int, int]:
    completed, balls = over.split(".")
    return int(completed), int(balls)


def _innings(events: list[Event]) -> Document:
    return Document("".join(e.text for e in events), tuple(_normal(e.body) for e in events if e.body))
