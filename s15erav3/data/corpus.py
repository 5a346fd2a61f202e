"""Reading of text as documents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from s15erav3.data.commentary import Event, innings, parse_events
from s15erav3.data.messages import shown, unreadable
from s15erav3.data.reading import TEXT, read_lines
from s15erav3.data.rows import ROWS, has_rows, kind_of, read_rows
from s15erav3.data.sources import Sources, sources
from s15erav3.errors import UserError

Format = Literal["ipl", "text"]
DocumentBoundary = Literal["blank_line", "file"]


class Document(NamedTuple):
    """Smallest unit of a split. The concatenated documents of a file are the file."""

    text: str
    contents: tuple[str, ...]
    """The commentary of each event, or the text itself, with case and white space normalised.
    Documents that share any of these belong to the same split."""


@dataclass(frozen=True)
class Corpus:
    """UTF-8 text on disk: one file, or the files of a folder sorted by name.

    The files are those of :func:`~s15erav3.data.sources.sources`.

    ``ipl`` documents are innings; ``text`` documents end at blank lines or at the end of the file, or are the rows
    of a .jsonl, .parquet or .arrow file. A byte-order mark is removed; CRLF and a lone CR become LF, except in rows.

    Raises:
        UserError: the path is missing, empty, binary or not in the expected format.
    """

    path: Path
    format: Format = "ipl"
    document: DocumentBoundary = "blank_line"

    def files(self) -> list[Path]:
        """The files to read, at least one."""
        return self._sources().files

    def passed_over(self) -> list[str]:
        """Files of the folder without text, each as ``path (why)``."""
        return self._sources().passed_over

    def fingerprint(self) -> str:
        """Hash of the content and of its division into documents; independent of the files' location."""
        digest = hashlib.sha256(f"documents-1 {self.format} {self.document}".encode())
        for file in self.files():
            digest.update(kind_of(file).encode())
            try:
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
            except OSError as error:
                raise unreadable(file, error) from error
        return digest.hexdigest()

    def documents(self) -> Iterator[Document]:
        """Yield all documents in file order, streamed unless a file is a single document."""
        for file in self.files():
            if self.format == "ipl":
                for events in self._innings(file):
                    yield Document(_joined(events), tuple(_normal(e.body) for e in events if e.body))
            else:
                yield from (Document(text, (_normal(text),)) for text in self._plain(file))

    def texts(self) -> Iterator[str]:
        """Yield the text of all documents; several times faster than :meth:`documents`."""
        for file in self.files():
            yield from map(_joined, self._innings(file)) if self.format == "ipl" else self._plain(file)

    def _sources(self) -> Sources:
        return sources(self.path, TEXT + (ROWS if self.format == "text" else ()))

    def _innings(self, file: Path) -> Iterator[list[Event]]:
        if has_rows(file):
            raise UserError(f"data.path={shown(file)} holds rows of any text, not commentary; read it with data=text.")
        return innings(parse_events(read_lines(file), file))

    def _plain(self, file: Path) -> Iterator[str]:
        if has_rows(file):
            return read_rows(file)
        return iter(["".join(read_lines(file))]) if self.document == "file" else _paragraphs(read_lines(file))


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Split before the first line after a blank one; blank lines stay with the preceding text."""
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


def _joined(events: list[Event]) -> str:
    return "".join(event.text for event in events)
