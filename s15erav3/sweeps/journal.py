"""The file of a study: Optuna's journal, one JSON line for each thing that happened; nothing in it is executed.

The sweep's program and its jobs write it at once, and any of them may be killed at any time.
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
"""Attributes of a trial: the number of its run's folder, the command line of its run, how often it was begun."""

DAMAGED = (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError)
"""What Optuna raises where a line is not one of its own."""


class Lock(JournalFileOpenLock):
    """Held while a line is written. The system lets it go with its process; Optuna's would stay for 30 seconds."""

    def __init__(self, file: Path) -> None:
        self.file = FileLock(file)

    def acquire(self) -> bool:
        """Wait for it."""
        self.file.acquire()
        return True

    def release(self) -> None:
        """Let others write."""
        self.file.release()


class Journal(JournalFileBackend):
    """Optuna's own, which would append to half a line that a full disk or a power cut has left, and never read on.

    Args:
        file: of the study.
    """

    def __init__(self, file: Path) -> None:
        self.path = file
        self.lock = Lock(lock_of(file))
        super().__init__(str(file), lock_obj=self.lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write lines."""
        self.lock.acquire()  # which this process may take twice
        try:
            mend(self.path)
            super().append_logs(logs)
        finally:
            self.lock.release()


def lock_of(file: Path) -> Path:
    """The lock of a study's file, beside the sweep's own."""
    return file.parent / ".sweep" / f"{file.name}.lock"


def mend(file: Path) -> None:
    """Cut off what follows the last whole line."""
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
    """The storage in ``file``, which is made if it is not there.

    Raises:
        UserError: it is a link, or is none of Optuna's.
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
            f"{file} is no study of this program, or is damaged ({type(error).__name__}: {error}); choose another "
            "sweep.name, or move the file away, and the search begins with its next trial."
        ) from error


def id_of(storage: JournalStorage, study: str, number: int) -> int:
    """By which a storage knows the trial of this number in the study of this name."""
    return storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(study), number)
