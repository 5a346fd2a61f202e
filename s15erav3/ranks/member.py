"""A rank started by the first one: it prints nothing, reports its end, and exits when the first one is gone."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from typing import NoReturn

from s15erav3.errors import UserError
from s15erav3.ranks.board import Board

VARIABLE = "S15ERAV3_RANKS"
"""Environment variable with the board's descriptor, the number of ranks and the timeout."""

PERIOD = 0.5
"""Seconds between two checks of the other ranks."""

PATIENCE = 8.0
"""Seconds that a rank which has lost another one waits for the first rank to end it."""

SPOKEN = ("gloo", "nccl", "c10d", "tcpstore", "connection closed by peer", "connection reset")
"""Substrings of torch.distributed's messages about a lost process, for errors without a type of their own."""


def lost(error: BaseException) -> bool:
    """Return whether a collective failed because another process ended."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None:  # this rank has not reached the import yet
        return False
    if isinstance(error, distributed.DistError):
        return True
    return type(error) is RuntimeError and any(word in str(error).lower() for word in SPOKEN)


class Awake:
    """Time in which this process was running: suspending and resuming a whole job does not count."""

    def __init__(self) -> None:
        self.seconds, self._last = 0.0, time.monotonic()

    def look(self) -> float:
        """Return the seconds so far; to be called every :data:`PERIOD`."""
        now = time.monotonic()
        self.seconds += min(now - self._last, 2 * PERIOD)
        self._last = now
        return self.seconds


class Member(threading.Thread):
    """Counts ticks, and ends this process when the first rank is gone or has not run for ``timeout`` seconds."""

    def __init__(self, board: Board, rank: int, timeout: float) -> None:
        super().__init__(name="member", daemon=True)
        self.board, self.rank, self.timeout = board, rank, timeout
        self.first = board.get(0, "pid")
        board.put(rank, "pid", os.getpid())

    def run(self) -> None:
        awake, ticks, since = Awake(), -1, 0.0
        while True:
            self.board.count(self.rank, "ticks")
            now, found = awake.look(), self.board.get(0, "ticks")
            if found != ticks:
                ticks, since = found, now
            if os.getppid() != self.first:
                self._end(f"the first of {self.board.ranks} ranks (process {self.first}) was killed")
            if now - since > self.timeout:
                self._end(
                    f"the first of {self.board.ranks} ranks (process {self.first}) has not run for "
                    f"{self.timeout:g} s (trainer.rank_timeout)"
                )
            time.sleep(PERIOD)

    def _end(self, what: str) -> NoReturn:
        said = f"{what}; the others have ended. Resume the run from its last checkpoint."
        if self.board.first_to_tell():
            print(f"error: {said}", file=sys.stderr, flush=True)
        self.board.report(self.rank, kind="Accident", reason=said)
        os._exit(1)  # the main thread may wait for the lost rank forever

    def leave(self, error: BaseException) -> int:
        """Store a report on the error that ended this rank; return its exit status."""
        if lost(error):
            self.board.report(self.rank, kind="lost", reason=str(error))
            time.sleep(PATIENCE)  # the first rank ends this process, or is gone itself
            return 1
        if isinstance(error, UserError):
            self.board.report(self.rank, kind=type(error).__name__, reason=str(error), status=error.exit_status)
            return error.exit_status
        if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
            return 130
        if isinstance(error, SystemExit) and isinstance(error.code, int | None):
            return error.code or 0
        trace = "".join(traceback.format_exception(error))
        self.board.report(self.rank, kind="bug", reason=f"{type(error).__name__}: {error}", trace=trace)
        return 1


_here: Member | None = None


def join() -> Member | None:
    """Join as a rank, in a process that the first rank has started; return ``None`` in any other."""
    global _here
    given = os.environ.pop(VARIABLE, None)  # for this process only, not for its children
    if given is not None:
        descriptor, ranks, timeout = given.split(":")
        _here = Member(Board(int(descriptor), int(ranks)), int(os.environ["LOCAL_RANK"]), float(timeout))
        _here.start()
    return _here


def here() -> Member | None:
    """Return this process's membership, if another rank has started it."""
    return _here
