"""Jobs in the queue of a cluster: submit what is missing, wait for it or leave it there, and read how it ended.

The queue goes on without this process. Which job is which in the queue is kept in the sweep's folder, so that a later
``sweep.resume`` waits for jobs that are still there and submits only the others.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from s15erav3.errors import UserError
from s15erav3.files import replace_text
from s15erav3.sweeps.planned import Planned, leave_word
from s15erav3.terminal import program, say, short

FILE = Path(".sweep") / "queue.json"
"""File of the jobs' names in the queue, within the sweep's folder."""
PAUSE = (0.5, 30.0)
"""Seconds between two looks into the queue, at first and at most."""


class Queue(Protocol):
    """What a cluster's queue can do."""

    title: str

    def submit(self, jobs: Sequence[Planned]) -> dict[int, str]:
        """Submit jobs; return the name in the queue for each number.

        Raises:
            UserError: the cluster refuses them.
        """

    def listed(self) -> set[str] | None:
        """Return the names of all jobs that wait or run; ``None`` if the cluster does not answer."""

    def held(self, names: Collection[str]) -> str:
        """Return why some of these jobs, as last listed, do not start; empty if nothing but time is missing."""

    def log(self, name: str, sweep: Path) -> str:
        """Return where the output of a job can be read."""

    def cancel(self, names: Sequence[str]) -> str:
        """Return the command that ends jobs."""


class Entry(NamedTuple):
    """A job in the queue."""

    name: str
    overrides: list[str]


def entries(sweep: Path) -> dict[int, Entry]:
    """Return the jobs that were submitted for a sweep, by number; some may have ended."""
    try:
        kept = json.loads((sweep / FILE).read_text())
        return {int(number): Entry(str(name), list(overrides)) for number, (name, overrides) in kept.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def queued(queue: Queue, sweep: Path) -> dict[int, Entry]:
    """Return the jobs of a sweep that wait or run.

    Raises:
        UserError: some were submitted before, and the cluster does not answer.
    """
    known = entries(sweep)
    if not known:
        return {}
    listed = queue.listed()
    if listed is None:
        raise UserError(f"{queue.title} does not answer, and jobs of {sweep} may be in its queue; try again later.")
    return {number: entry for number, entry in known.items() if entry.name in listed}


def launch(queue: Queue, jobs: Sequence[Planned], sweep: Path, wait: bool) -> dict[int, str]:
    """Submit the jobs that are neither complete nor in the queue, and wait for all.

    Args:
        wait: false submits and returns.

    Returns:
        the names of the jobs that are left in the queue, by number: none if they were waited for.

    Raises:
        UserError: the cluster refuses the jobs.
    """
    there = {job.number: job for job in jobs if job.found.state == "queued"}
    todo = [job for job in jobs if job.found.state not in ("done", "queued")]
    known = entries(sweep)
    if todo:
        known |= {number: Entry(name, []) for number, name in queue.submit(todo).items()}
        known |= {job.number: known[job.number]._replace(overrides=job.overrides) for job in todo}
        replace_text(sweep / FILE, json.dumps({number: list(entry) for number, entry in known.items()}))
    watched = {number: known[number].name for number in (*there, *(job.number for job in todo))}
    if watched:
        say(f"{len(todo)} jobs submitted to {queue.title}, {len(there)} in its queue already")
    if not wait:
        return watched
    try:
        _wait(queue, watched)
    except KeyboardInterrupt:
        listed = queue.listed()
        raise Left({n: name for n, name in watched.items() if listed is None or name in listed}) from None
    for job in jobs:
        if job.number in watched:
            name = watched[job.number]
            leave_word(job, f"its {queue.title} job {name} ended without a result{queue.log(name, sweep)}")
    return {}


class Left(KeyboardInterrupt):
    """Ctrl-C while waiting: the jobs stay in the queue.

    Args:
        names: of the jobs that wait or run, by number.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.names = names


def _wait(queue: Queue, names: Mapping[int, str]) -> None:
    pause, rest, silent, held = PAUSE[0], set(names.values()), False, ""
    while rest:
        time.sleep(pause)
        listed = queue.listed()
        if listed is None and not silent:
            say(f"{queue.title} does not answer; its jobs go on, and so does the wait")
        silent = listed is None
        rest = rest if listed is None else rest & listed
        if rest and (why := queue.held(rest)) != held:
            say(f"{queue.title} holds jobs back: {why}" if why else f"{queue.title} holds no job back")
            held = why
        pause = min(pause * 1.1, PAUSE[1])


def tell(queue: Queue, names: Mapping[int, str], sweep: Path) -> None:
    """Say what is in the queue, and how to watch, collect and cancel it."""
    place = shlex.quote(str(short(sweep)))
    say(f"sweep {place}: {len(names)} jobs in the queue of {queue.title}")
    say(f"  {program()} compare {place}             # progress")
    say(f"  {program()} train sweep.resume={place}  # wait, and run what failed")
    say(f"  {queue.cancel(list(names.values()))}  # end them")
