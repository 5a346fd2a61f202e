"""Cache of derived data, with locks and atomic writes."""

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
    """Hold an inter-process lock on ``target``, so that only one of several jobs creates it.

    Raises:
        UserError: the folder is not writable.
    """
    _make_folder(target.parent)
    try:
        with FileLock(target.with_name(target.name + ".lock")):
            for left in target.parent.glob(f".{glob.escape(target.name)}.*"):  # left by a killed process
                shutil.rmtree(left, ignore_errors=True)
            yield
    except OSError as error:
        raise _unwritable(target, error) from error


def discard(target: Path) -> None:
    """Remove an invalid file or folder at ``target``.

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
    """Yield a temporary path next to ``target`` for a new file or folder; rename it to ``target`` on success.

    If another process has completed the same folder meanwhile, that one is kept: both have the same content.

    Raises:
        UserError: the folder is not writable.
    """
    _make_folder(target.parent)
    try:
        with beside(target) as made:
            yield made
    except OSError as error:
        if error.filename2 == str(target) and target.is_dir():
            return
        if not disk_full(error) and not str(error.filename).startswith(
            str(target.parent)
        ):  # an error of the input, not of the target
            raise
        raise _unwritable(target, error) from error
