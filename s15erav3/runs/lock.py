"""One writer per run folder: a lock that is held while a run trains, and is released when its process ends."""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from s15erav3.errors import UserError

WITHOUT = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""Errors of file systems without locks; there, only progress.json shows that a run is active."""


@contextmanager
def only_trainer(run_dir: Path) -> Iterator[None]:
    """Hold the lock of ``run_dir`` while this process trains the run.

    It is a POSIX record lock (``lockf``): the system releases it however the process ends, network file systems pass it
    on to their server, and unlike ``flock``, forked data loader workers do not keep it after a kill.

    Raises:
        UserError: another process trains there, or the folder cannot be written.
    """
    file = run_dir / ".hydra" / "lock"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UserError(
            f"cannot write the run's folder: {error.strerror}: {error.filename}; choose a writable place with "
            "hydra.run.dir=FOLDER."
        ) from error
    try:
        _take(descriptor, fcntl.LOCK_EX, run_dir)
        os.ftruncate(descriptor, 0)
        with suppress(OSError):  # on a full disk the lock still holds, but does not name its owner
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def refuse_if_at_work(run_dir: Path) -> None:
    """Check the lock without writing anything.

    Raises:
        UserError: another process trains there.
    """
    try:
        descriptor = os.open(run_dir / ".hydra" / "lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        _take(descriptor, fcntl.LOCK_SH, run_dir)
    finally:
        os.close(descriptor)


def _take(descriptor: int, kind: int, run_dir: Path) -> None:
    try:
        fcntl.lockf(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in WITHOUT:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            raise UserError(
                f"the run in {shlex.quote(str(run_dir))} is still running ({holder}); wait for it, or stop it."
            ) from error
