"""Text files at a path, and their lines; files that are not text are reported."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import NamedTuple

from s15erav3.data.messages import listed, shown, unreadable
from s15erav3.data.reading import TEXT, read_lines
from s15erav3.data.rows import ROWS, has_rows, read_rows
from s15erav3.errors import UserError


class Sources(NamedTuple):
    """Files at a path that are read, and those that are skipped."""

    files: list[Path]
    """Distinct regular files sorted by path; at least one, and each with more than white space."""
    passed_over: list[str]
    """Entries that look like text files but have no text, each as ``path (why)``."""


def sources(path: Path, endings: tuple[str, ...] = TEXT + ROWS) -> Sources:
    """Find a file, or those of a folder and its subfolders whose names end so (in any case), links included.

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
        return _in_folder(path, endings)
    if not stat.S_ISREG(mode):
        raise UserError(
            f"data.path={shown(path)} is {_kind(mode)}, which can be read once at most; write its text to a file first."
        )
    if _is_blank(path):
        raise UserError(f"data.path={shown(path)} is empty; give a file with text.")
    return Sources([path], [])


def _in_folder(top: Path, endings: tuple[str, ...]) -> Sources:
    found, passed_over = _walk(top, endings)
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
            f"data.path={shown(top)} is a folder without text (skipped: {listed(named)}); add files with text or "
            "name a file."
        )
    if not kept:
        raise UserError(
            f"data.path={shown(top)} is a folder without {', '.join(endings)} files; add some or name a file."
        )
    return Sources(kept, named)


def _walk(
    top: Path, endings: tuple[str, ...]
) -> tuple[list[tuple[bool, Path, tuple[int, int]]], list[tuple[Path, str]]]:
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
            path, is_text = folder / entry.name, entry.name.lower().endswith(endings)
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
    return not any(read_rows(file)) if has_rows(file) else all(line.isspace() for line in read_lines(file))
