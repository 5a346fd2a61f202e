"""The file of a study: Optuna's journal, one JSON line per event; nothing in it is executed.

The sweep's process and its jobs write it concurrently, and any of them may be killed at any time.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from s15erav3.errors import UserError

JOB, SETTINGS, ATTEMPT = "job", "settings", "attempt"
"""Attributes of a trial: the number of its run's folder, the command line of its run, the number of attempts."""

DAMAGED = (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError)
"""Exceptions that Optuna raises for a line that it did not write."""


class Lock(JournalFileOpenLock):
    """A lock held while a line is written. The system releases it with its process; Optuna's would stay 30 seconds."""

    def __init__(self, file: Path) -> None:
        self.file = FileLock(file)

    def acquire(self) -> bool:
        """Wait for the lock."""
        self.file.acquire()
        return True

    def release(self) -> None:
        """Release the lock."""
        self.file.release()


class Journal(JournalFileBackend):
    """Optuna's journal, safe against partial lines.

    Optuna's own would append to a partial line left by a full disk or a power cut, and could never read past it.

    Args:
        file: the study's file.
    """

    def __init__(self, file: Path) -> None:
        self.path = file
        self.lock = Lock(lock_of(file))
        super().__init__(str(file), lock_obj=self.lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write lines."""
        self.lock.acquire()  # this process may acquire it twice
        try:
            mend(self.path)
            super().append_logs(logs)
        finally:
            self.lock.release()


def lock_of(file: Path) -> Path:
    """Return the lock of a study's file, which is beside the sweep's own lock."""
    return file.parent / ".sweep" / f"{file.name}.lock"


def mend(file: Path) -> None:
    """Truncate the file after its last complete line."""
    with file.open("r+b") as stream:
        end = stream.seek(0, os.SEEK_END)
        whole = end
        while whole:
            start = max(0, whole - 4096)
            stream.seek(start)
            found = stream.read(whole - start).rfind(b"\n")
            whole = start + found + 1
            if found >= 0:
                break
        if whole < end:
            stream.truncate(whole)


def open_journal(file: Path) -> JournalStorage:
    """Return the storage in ``file``, which is created if it is missing.

    Raises:
        UserError: the file is a link, or not an Optuna journal.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if file.is_symlink():
        raise UserError(f"{file} is a link, and the study would be written there; put the file itself in its place.")
    file.parent.mkdir(parents=True, exist_ok=True)
    lock_of(file).parent.mkdir(exist_ok=True)
    try:
        return JournalStorage(Journal(file))
    except DAMAGED as error:
        raise UserError(
            f"{file} is not a study of this program, or is damaged ({type(error).__name__}: {error}); choose another "
            "sweep.name, or move the file away to continue without it."
        ) from error


def id_of(storage: JournalStorage, study: str, number: int) -> int:
    """Return the storage's id of the trial with this number in the study with this name."""
    return storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(study), number)
