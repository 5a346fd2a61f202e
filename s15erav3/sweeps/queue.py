"""A queue of jobs at a fixed number of places: the next job goes to the place that is free."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from multiprocessing.connection import wait
from typing import Any, Protocol, TypeVar


class Process(Protocol):
    """What the queue needs of a process, as :class:`multiprocessing.Process` has it."""

    @property
    def sentinel(self) -> Any:
        """Becomes ready when the process has ended."""

    @property
    def exitcode(self) -> int | None:
        """Of the ended process; minus the signal that killed it."""

    def join(self) -> None:
        """Wait for the end."""


J = TypeVar("J")
S = TypeVar("S")
P = TypeVar("P", bound=Process)


def drain(
    jobs: Iterable[J],
    slots: Iterable[S],
    start: Callable[[J, S], P],
    ended: Callable[[J, S, P], None],
    tick: Callable[[], bool],
    seconds: float = 0.25,
) -> None:
    """Run every job, each slot with exactly one at a time for as long as jobs wait.

    Args:
        start: begin a job at a slot.
        ended: called once for each job that was started, when its process is gone.
        tick: called at least every ``seconds``; once it returns ``False``, no more jobs begin.
    """
    waiting, free = deque(jobs), deque(slots)
    running: dict[Any, tuple[J, S, P]] = {}
    while ((goes_on := tick()) and waiting) or running:
        while goes_on and free and waiting:
            job, slot = waiting.popleft(), free.popleft()
            process = start(job, slot)
            running[process.sentinel] = (job, slot, process)
        for sentinel in wait(list(running), timeout=seconds):
            job, slot, process = running.pop(sentinel)
            process.join()
            free.append(slot)
            ended(job, slot, process)
