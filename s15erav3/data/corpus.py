"""Reading text as documents and dividing documents into training, validation and test parts."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from s15erav3.errors import UserError

Split = Literal["train", "val", "test"]
Format = Literal["ipl", "text"]
DocumentBoundary = Literal["blank_line", "file"]

_HEADER = re.compile(r"^\S.* \d(?:st|nd|rd|th) Inns\s*$")
_OVER = re.compile(r"^(\d+)\.(\d+) overs?\s*$")


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
    """UTF-8 text on disk: one file, or a folder of .txt files in the order of their names.

    ``ipl`` documents are innings; ``text`` documents end at blank lines or with the file. A byte-order
    mark is dropped and CRLF becomes LF.

    Raises:
        UserError: the path is missing, empty, binary or not in the format.
    """

    path: Path
    format: Format = "ipl"
    document: DocumentBoundary = "blank_line"

    def files(self) -> list[Path]:
        """The files to read, at least one."""
        if not self.path.exists():
            raise UserError(f"data.path={self.path} does not exist; give an existing UTF-8 text file.")
        if not self.path.is_dir():
            return [self.path]
        files = sorted(p for p in self.path.rglob("*.txt") if p.is_file())
        if not files:
            raise UserError(f"data.path={self.path} is a folder without .txt files; add some or name a file.")
        return files

    def fingerprint(self) -> str:
        """Hash of the content and of how it is divided into documents; the files' place does not count."""
        digest = hashlib.sha256(f"documents-1 {self.format} {self.document}".encode())
        for file in self.files():
            try:
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
            except OSError as error:
                raise UserError(f"data.path={file} cannot be read: {error.strerror}.") from error
        return digest.hexdigest()

    def documents(self) -> Iterator[Document]:
        """All documents in file order, read as a stream unless a file is one document."""
        for file in self.files():
            if self.format == "ipl":
                yield from innings(parse_events(_lines(file), file))
            elif self.document == "file":
                yield _plain("".join(_lines(file)))
            else:
                yield from (_plain(text) for text in _paragraphs(_lines(file)))


def is_commentary(path: Path) -> bool:
    """Whether a file begins as ball-by-ball commentary does, with an innings line and an over line."""
    if not path.is_file():
        return False
    written = [line for line in itertools.islice(_lines(path), 10) if not line.isspace()]
    return len(written) > 1 and bool(_HEADER.match(written[0]) and _OVER.match(written[1]))


def _lines(file: Path) -> Iterator[str]:
    seen_text = False
    try:
        with file.open(encoding="utf-8-sig") as stream:
            for line in stream:
                if "\0" in line:
                    raise UserError(f"data.path={file} holds NUL bytes: it is binary, not UTF-8 text.")
                seen_text = seen_text or not line.isspace()
                yield line
    except UnicodeDecodeError as error:
        raise UserError(
            f"data.path={file} is not UTF-8 text (byte {error.start} of a block is {error.object[error.start]:#04x}); "
            "convert it to UTF-8 first."
        ) from error
    except OSError as error:
        raise UserError(f"data.path={file} cannot be read: {error.strerror}.") from error
    if not seen_text:
        raise UserError(f"data.path={file} is empty; give a file with text.")


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
            f"data.path={source} is not ball-by-ball commentary: expected an innings line ('MI 1st Inns') and an "
            f"over line ('13.4 overs'), found {said[0][:60]!r}; read other text with data=text."
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


def assign_splits(
    documents: Iterable[Document], *, seed: int, val_fraction: float, test_fraction: float
) -> list[Split]:
    """Decide the split of every document.

    Documents that share any content are tied together first, so that no repeat of a commentary lies on
    two sides. The ties are shuffled by ``seed`` and fill validation, then test, up to their fractions of
    the bytes; the rest is for training.

    Raises:
        UserError: a split would stay empty.
    """
    parent: list[int] = []
    sizes: list[int] = []
    owner: dict[bytes, int] = {}

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, document in enumerate(documents):
        parent.append(i)
        sizes.append(len(document.text.encode()))
        for content in document.contents:
            key = hashlib.blake2b(content.encode(), digest_size=12).digest()
            parent[root(i)] = root(owner.setdefault(key, i))

    roots = np.array([root(i) for i in range(len(parent))], dtype=np.int64)
    ties, member = np.unique(roots, return_inverse=True)
    tie_bytes = np.bincount(member, weights=sizes, minlength=len(ties)) if sizes else np.zeros(0)
    order = np.random.default_rng(seed).permutation(len(ties))
    total = tie_bytes.sum()
    # A tie far larger than a part would fill it alone, or both parts at once: such go to training.
    largest = max(2 * total * max(val_fraction, test_fraction), float(np.median(tie_bytes)) if len(ties) else 0.0)
    order = order[tie_bytes[order] <= largest]
    before = np.cumsum(tie_bytes[order]) - tie_bytes[order]  # bytes of the ties drawn earlier
    share = before / max(1.0, total)

    side = np.full(len(ties), 0, dtype=np.int8)
    side[order[share < val_fraction + test_fraction]] = 2
    side[order[share < val_fraction]] = 1
    names: tuple[Split, Split, Split] = ("train", "val", "test")
    wanted = {0, *([1] if val_fraction else []), *([2] if test_fraction else [])}
    if lacking := sorted(wanted - set(side.tolist())):
        raise UserError(
            f"the corpus has {len(ties)} independent documents, too few for the split '{names[lacking[0]]}' "
            f"(data.val_fraction={val_fraction}, data.test_fraction={test_fraction}); give more text, or "
            "separate documents by blank lines."
        )
    return [names[side[m]] for m in member]
