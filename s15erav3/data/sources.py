"""Text files at a path, and their lines; files that are not text are reported."""

from __future__ import annotations

import codecs
import errno
import mmap
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from s15erav3.errors import UserError

_LINE_END = re.compile(rb"\r\n?|\n")
_BLOCK = 1 << 20


class Sources(NamedTuple):
    """Files at a path that are read, and those that are skipped."""

    files: list[Path]
    """Distinct regular files sorted by path; at least one, and each with more than white space."""
    passed_over: list[str]
    """Entries that look like text files but have no text, each as ``path (why)``."""


def sources(path: Path) -> Sources:
    """Find a file, or the ``.txt`` files (in any case) of a folder and its subfolders, links included.

    A file or folder reachable by several paths counts once. Empty files, broken links, named pipes, sockets and
    devices in a folder are skipped; text that exists but cannot be read is an error.

    Raises:
        UserError: there is no text, or some cannot be read.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # NUL in a path is a ValueError
        raise UserError(f"data.path={shown(path)} does not exist; give an existing UTF-8 text file.") from error
    except OSError as error:
        raise unreadable(path, error) from error
    if stat.S_ISDIR(mode):
        return _in_folder(path)
    if not stat.S_ISREG(mode):
        raise UserError(
            f"data.path={shown(path)} is {_kind(mode)}, which can be read once at most; write its text to a file first."
        )
    if _is_blank(path):
        raise UserError(f"data.path={shown(path)} is empty; give a file with text.")
    return Sources([path], [])


def _in_folder(top: Path) -> Sources:
    found, passed_over = _walk(top)
    files: dict[tuple[int, int], Path] = {}
    for _, path, place in sorted(found):  # prefer the path without links, then the first by name
        files.setdefault(place, path)
    kept = []
    for path in sorted(files.values()):
        if _is_blank(path):
            passed_over.append((path, "empty"))
        else:
            kept.append(path)
    named = [f"{shown(path)} ({why})" for path, why in sorted(passed_over)]
    if not kept and named:
        raise UserError(
            f"data.path={shown(top)} is a folder without text (skipped: {listed(named)}); add .txt files with "
            "text or name a file."
        )
    if not kept:
        raise UserError(f"data.path={shown(top)} is a folder without .txt files; add some or name a file.")
    return Sources(kept, named)


def _walk(top: Path) -> tuple[list[tuple[bool, Path, tuple[int, int]]], list[tuple[Path, str]]]:
    """Return (via link, path, (device, inode)) of each text file, and the skipped entries."""
    found: list[tuple[bool, Path, tuple[int, int]]] = []
    passed_over: list[tuple[Path, str]] = []
    entered: set[tuple[int, int]] = set()
    own: list[tuple[bool, Path]] = [(False, top)]
    linked: list[Path] = []  # visited last, so that a folder is found at its real path first
    while own or linked:
        through_link, folder = own.pop() if own else (True, linked.pop(0))
        try:
            here = folder.stat()
            if (here.st_dev, here.st_ino) in entered:
                continue
            entered.add((here.st_dev, here.st_ino))
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise unreadable(folder, error) from error
        for entry in entries:
            path, is_text = folder / entry.name, entry.name.lower().endswith(".txt")
            try:
                there = entry.stat()
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise unreadable(path, error) from error
                passed_over.append((path, "a broken link"))
                continue
            if stat.S_ISDIR(there.st_mode) and entry.is_symlink():
                linked.append(path)
            elif stat.S_ISDIR(there.st_mode):
                own.append((through_link, path))
            elif is_text and stat.S_ISREG(there.st_mode):
                found.append((through_link or entry.is_symlink(), path, (there.st_dev, there.st_ino)))
            elif is_text:
                passed_over.append((path, _kind(there.st_mode)))
    return found, passed_over


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def _is_blank(file: Path) -> bool:
    return all(line.isspace() for line in read_lines(file))


def read_lines(file: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file without its byte-order mark; CRLF and a lone CR become LF.

    Raises:
        UserError: the file is not text, or cannot be read.
    """
    try:
        with file.open(encoding="utf-8-sig") as stream:
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


def unreadable(path: Path, error: OSError) -> UserError:
    """Build the error for a file or folder that the system does not allow us to read."""
    return UserError(f"data.path={shown(path)} cannot be read: {error.strerror}; make it readable, or remove it.")


def shown(path: Path) -> str:
    """Format any path for messages: on one line and printable."""
    return str(path) if str(path).isprintable() else ascii(str(path))


def listed(named: list[str]) -> str:
    """List the first few names, and the number of the others."""
    return ", ".join(named[:5]) + (f" and {len(named) - 5:,} more" if len(named) > 5 else "")
