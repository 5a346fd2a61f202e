"""The first rank's monitoring of the ranks that it started: if one ends or hangs, all end, with one reported cause."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from s15erav3.ranks.board import Board
from s15erav3.ranks.member import PERIOD, Awake, lost

GRACE = 3.0
"""Seconds in which all ranks may end by themselves after one has: often they do, for the same reason."""

LEAVING = 6.0
"""Seconds in which the main thread has to notice that the other ranks are gone."""

WRITING = 60.0
"""Seconds in which a checkpoint that is being written has to be whole."""

FAREWELL = 30.0
"""Seconds that the others have to end once training is complete."""

ASKED = tuple(getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, n))
"""Signals that ask a run to end; dying of one is not an error."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """End this process, with status 1, if the block takes longer."""
    last = threading.Timer(seconds, os._exit, [1])
    last.daemon = True
    last.start()
    try:
        yield
    finally:
        last.cancel()


class RankEnded(Exception):
    """Another rank ended first, or all ranks wait for one.

    Args:
        reason: what happened, as a clause.
        reason: what happened, a clause.
        kind: ``killed``, ``stuck``, ``lost``, ``bug``, ``signal``, or ``UserError`` and its subclasses by name: then
            ``reason`` is the whole message.
        status: exit status, or the signal's number.
        trace: traceback of a bug.
    """

    def __init__(self, reason: str, kind: str, status: int = 1, trace: str = "") -> None:
        super().__init__(reason)
        self.reason, self.kind, self.status, self.trace = reason, kind, status, trace


class Watch(threading.Thread):
    """Thread that monitors the other ranks until :meth:`close`.

    It leaves its findings to the main thread, whose collectives fail when the others are gone. Where the main thread
    hangs (NCCL waits forever, as does a rendezvous), the watch ends the program itself, through ``last_words``.

    Args:
        ranks: number of ranks on this machine, including the first.
        timeout: seconds without progress after which a rank counts as stuck.
        last_words: reports to the user and writes the run's result; returns the exit status.
    """

    def __init__(self, ranks: int, timeout: float, last_words: Callable[[RankEnded], int]) -> None:
        super().__init__(name="watch", daemon=True)
        self.board, self.timeout, self.last_words = Board.new(ranks), timeout, last_words
        self.board.put(0, "pid", os.getpid())
        self.processes: dict[int, subprocess.Popen[Any]] = {}
        self.found: RankEnded | None = None
        self._over, self._ending = threading.Event(), threading.Lock()
        self._awake = Awake()
        self._seen: dict[tuple[int, str], tuple[int, float]] = {}

    def run(self) -> None:
        while not self._over.wait(PERIOD):
            self.board.count(0, "ticks")
            now = self._awake.look()
            stuck = self._stuck(now)
            if stuck is None and not self._failed():
                continue
            if stuck is None and self._over.wait(GRACE):
                return
            with self._ending:
                if self._over.is_set():
                    return
                self.found = stuck or self._judge()
                self.kill()
            if not self._over.wait(LEAVING):
                with self._ending:
                    if not self._over.is_set():
                        self._exit(self.found)
            return

    def _exit(self, found: RankEnded) -> None:
        """End the program while its main thread hangs."""
        status = 1
        try:
            with at_most(WRITING + 2 * LEAVING):  # a full disk may block last_words
                status = self.last_words(found)
        finally:
            os._exit(status)

    def cause(self, error: BaseException) -> RankEnded | None:
        """Return how another rank ended first and so caused ``error`` in the main thread; ``None`` if none did.

        After this call the main thread ends the program, not the watch.
        """
        with self._ending:
            self._over.set()
        if self.found is not None and isinstance(error, Exception):
            return self.found
        if not lost(error):
            return None
        until = time.monotonic() + GRACE
        while not self._failed() and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(2 * PERIOD)  # the other ranks may still be writing their reports
        return self._judge()

    def close(self, completed: bool) -> None:
        """End the remaining ranks; they have ``FAREWELL`` seconds to end by themselves if training completed."""
        with self._ending:
            self._over.set()
        until = time.monotonic() + (FAREWELL if completed else 0)
        for process in self.processes.values():
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def kill(self) -> None:
        """Kill the other ranks at once, including suspended ones. The first rank holds all results."""
        for process in self.processes.values():
            process.kill()

    def _failed(self) -> bool:
        return any(process.poll() for process in self.processes.values())

    def _judge(self) -> RankEnded:
        """Return the cause, from what is known of the ranks that have ended."""
        ended = {rank: status for rank, process in self.processes.items() if (status := process.poll())}
        reports = {rank: self.board.reported(rank) for rank in ended}
        for rank, status in ended.items():
            if status < 0 and -status not in ASKED:
                return RankEnded(f"{self._called(rank)} was killed by {signal.Signals(-status).name}", "killed")
        for rank, report in reports.items():
            if report and report["kind"] == "bug":
                return RankEnded(f"{self._called(rank)} failed: {report['reason']}", "bug", 1, report["trace"])
            if report and report["kind"] != "lost":
                return RankEnded(report["reason"], report["kind"], report.get("status", 1))
        for rank, status in ended.items():
            if (number := -status if status < 0 else status - 128) in ASKED:
                return RankEnded(f"{self._called(rank)} was stopped by {signal.Signals(number).name}", "signal", number)
            if reports[rank] is None:
                return RankEnded(f"{self._called(rank)} ended with status {status}", "killed")
        return RankEnded("the connection between the ranks was lost", "lost")

    def _called(self, rank: int) -> str:
        return f"rank {rank} of {self.board.ranks} (process {self.processes[rank].pid})"

    def _stuck(self, now: float) -> RankEnded | None:
        """Return an error if a rank has made no progress for too long, with the rank that blocks the others."""
        idle = {rank: self._since(rank, "moves", now) for rank in range(self.board.ranks)}
        still = {rank: self._since(rank, "ticks", now) for rank in self.processes}
        if max(idle.values()) <= self.timeout:
            return None
        after = f"for {self.timeout:g} s (trainer.rank_timeout)"
        # Ticks come from a thread independent of the main thread: if they stop, the process is not running.
        rank = max(still, key=lambda r: still[r])
        if still[rank] > self.timeout / 2:
            return RankEnded(f"{self._called(rank)} has not run {after}", "stuck")
        moves = {rank: self.board.get(rank, "moves") for rank in idle}
        rank = min(moves, key=lambda r: moves[r])
        if len(set(moves.values())) == 1:
            return RankEnded(f"none of {self.board.ranks} ranks has made progress {after}", "stuck")
        name = self._called(rank) if rank else f"the first of {self.board.ranks} ranks (process {os.getpid()})"
        return RankEnded(f"{name} has made no progress {after}", "stuck")

    def _since(self, rank: int, word: Any, now: float) -> float:
        """Return the seconds for which a counter has not changed."""
        number = self.board.get(rank, word)
        before, since = self._seen.get((rank, word), (-1, now))
        if number != before:
            self._seen[rank, word] = number, now
            return 0.0
        return now - since
