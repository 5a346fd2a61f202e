"""Ctrl-C and SIGTERM while jobs run: the first asks jobs to save and end, the second kills them."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from s15erav3.callbacks.last_checkpoint import STOPS, TOGETHER
from s15erav3.terminal import say


class Signals:
    """Forward signals within the block: the first as SIGINT to every job's process, the second as SIGKILL to its group.

    ``received`` is the number of the first signal, else 0; ``again`` says whether a second one came.
    """

    def __init__(self) -> None:
        self.received, self.again = 0, False
        self._at = 0.0
        self._processes: dict[int, Any] = {}
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *STOPS):
                self._handlers[number] = signal.signal(number, self._receive)
        return self

    def pass_on(self, process: Any) -> None:
        """Forward signals to a process, including one that was just received."""
        self._processes[process.pid] = process
        if self.received:
            self._send(process.pid)

    def forget(self, process: Any) -> None:
        """Stop forwarding to a process that has ended."""
        self._processes.pop(process.pid, None)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again = bool(self.received)
        if again and time.monotonic() - self._at < TOGETHER:
            return
        if not again:
            self.received, self._at = number, time.monotonic()
        self.again = again
        for pid in list(self._processes):
            self._send(pid, kill=again)
        if not again:
            say("stopping: each job finishes its step and saves; a second signal kills them")

    def _send(self, pid: int, kill: bool = False) -> None:
        with suppress(ProcessLookupError):
            if not kill:
                os.kill(pid, signal.SIGINT)
                return
            os.kill(pid, signal.SIGKILL)
            os.killpg(pid, signal.SIGKILL)  # including its child processes

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
