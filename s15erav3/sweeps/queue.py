"""A queue of jobs for a fixed number of slots: the next job goes to the next free slot."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from multiprocessing.connection import wait
from typing import Any, Protocol, TypeVar


class Process(Protocol):
    """The attributes of a process that the queue needs, as in :class:`multiprocessing.Process`."""

    @property
    def sentinel(self) -> Any:
        """Handle that becomes ready when the process has ended."""

    @property
    def exitcode(self) -> int | None:
        """Exit status of the ended process, or minus the number of the signal that killed it."""

    def join(self) -> None:
        """Wait for the process to end."""


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
    """Run all jobs, one at a time in each slot, with all slots in use while jobs wait.

    Args:
        start: starts a job in a slot.
        ended: called once for each started job, when its process is gone.
        tick: called at least every ``seconds``; once it returns ``False``, no more jobs start.
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
