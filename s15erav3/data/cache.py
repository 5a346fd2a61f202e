"""Where derived data is kept, and how a file appears there whole or not at all."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock

from s15erav3.errors import Accident, UserError, disk_full
from s15erav3.files import beside


def cache_dir() -> Path:
    """The user's cache folder for this program; ``S15ERAV3_CACHE`` overrides the platform's choice."""
    return Path(os.environ.get("S15ERAV3_CACHE") or platformdirs.user_cache_path("s15erav3"))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}; choose a writable place.") from error


def _unwritable(target: Path, error: OSError) -> UserError:
    kind = Accident if disk_full(error) else UserError
    return kind(
        f"cannot write to {target.parent}: {error.strerror or error}; make room and make it writable, or choose "
        "another cache folder with S15ERAV3_CACHE."
    )


@contextmanager
def only_writer(target: Path) -> Iterator[None]:
    """Hold the lock of ``target`` among processes: of several jobs one makes it and the others find it.

    Raises:
        UserError: the place is not writable.
    """
    _make_folder(target.parent)
    try:
        with FileLock(target.with_name(target.name + ".lock")):
            for left in target.parent.glob(f".{glob.escape(target.name)}.*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            yield
    except OSError as error:
        raise _unwritable(target, error) from error


def discard(target: Path) -> None:
    """Remove what lies at ``target`` and is not what it should be.

    Raises:
        UserError: it cannot be removed.
    """
    try:
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{target} is damaged and cannot be removed: {error.strerror}; remove it yourself.") from error


@contextmanager
def write_atomically(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target`` to make a file or folder at; rename it when all went well.

    A folder that another process completed meanwhile is kept and the new one dropped: both hold the same.

    Raises:
        UserError: the place is not writable.
    """
    _make_folder(target.parent)
    try:
        with beside(target) as made:
            yield made
    except OSError as error:
        if error.filename2 == str(target) and target.is_dir():
            return
        if not disk_full(error) and not str(error.filename).startswith(str(target.parent)):  # of what is read
            raise
        raise _unwritable(target, error) from error
