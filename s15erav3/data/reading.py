"""Reading of UTF-8 text by lines; what is not text is explained."""

from __future__ import annotations

import codecs
import io
import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from s15erav3.data.messages import shown, unreadable
from s15erav3.errors import UserError

TEXT = (".txt", ".txt.gz", ".txt.zst")
COMPRESSION = {".gz": "gzip", ".zst": "zstd"}
_LINE_END = re.compile(rb"\r\n?|\n")
_BLOCK = 1 << 20


def _compression(file: Path) -> str | None:
    return COMPRESSION.get(file.suffix.lower())


@contextmanager
def _open(file: Path) -> Iterator[IO[str]]:
    if compression := _compression(file):
        import pyarrow as pa  # here, since it takes a while

        with file.open("rb") as raw, pa.input_stream(raw, compression=compression) as stream:
            yield io.TextIOWrapper(stream, encoding="utf-8-sig")
    else:
        with file.open(encoding="utf-8-sig") as text:
            yield text


def read_lines(file: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file without its byte-order mark; CRLF and a lone CR become LF.

    A name that ends with .gz or .zst is that of a compressed file.

    Raises:
        UserError: the file is not text, or cannot be read.
    """
    try:
        with _open(file) as stream:
            for line in stream:
                if "\0" in line:
                    break
                yield line
            else:
                return
    except UnicodeDecodeError:
        pass
    except OSError as error:
        raise unreadable(file, error) from error
    try:
        fault = _no_text(file)
    except OSError as error:
        fault = unreadable(file, error)
    raise fault


def _no_text(file: Path) -> UserError:
    """Explain why a file is not text (undecodable, or contains NUL). Rereads it to find the offset in the file."""
    changed = UserError(f"data.path={shown(file)} changes while it is read; wait until it is written.")
    if _compression(file):
        return UserError(
            f"data.path={shown(file)} does not hold UTF-8 text, once decompressed; convert the text first."
        )
    with file.open("rb") as stream:
        if not os.fstat(stream.fileno()).st_size:  # an empty file cannot be mapped
            return changed
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    with content:
        if _is_utf16(content[:4096]):
            return UserError(f"data.path={shown(file)} is UTF-16 or UTF-32 text, not UTF-8; convert it to UTF-8 first.")
        undecodable, nul = _undecodable(content), content.find(b"\0")
        offset = min((at for at in (undecodable, nul) if at >= 0), default=-1)
        if offset < 0:
            return changed
        line = 1 + sum(1 for _ in _LINE_END.finditer(content, 0, offset))
        if offset == nul:
            return UserError(
                f"data.path={shown(file)} holds NUL bytes: it is binary, not UTF-8 text (the first at offset {offset}, "
                f"in line {line}); give a file of text."
            )
        return UserError(
            f"data.path={shown(file)} is not UTF-8 text: byte {content[offset]:#04x} at offset {offset}, in line {line}"
            "; convert it to UTF-8 first."
        )


def _is_utf16(head: bytes) -> bool:
    """Detect UTF-16 by its byte-order mark, or by NUL in every other byte, as in Western text."""
    even, odd = head[::2], head[1::2]
    alternate = any(
        2 * nul.count(0) > len(nul) and not other.count(0) for nul, other in ((even, odd), (odd, even)) if nul and other
    )
    return alternate or head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE))


def _undecodable(content: mmap.mmap) -> int:
    """Offset of the first byte that is not UTF-8, or -1."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for at in range(0, len(content), _BLOCK):
        block = content[at : at + _BLOCK]
        held = len(decoder.getstate()[0])  # bytes of a character started in the last block
        try:
            decoder.decode(block, final=at + _BLOCK >= len(content))
        except UnicodeDecodeError as error:
            return at - held + error.start
    return -1
