"""Jobs run one after the other in this process, as with Hydra's own launcher, each announced by name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

from s15erav3.session.run import stops_early
from s15erav3.sweeps.label import Job, head, label, varying
from s15erav3.terminal import say


def one_by_one(
    launcher: Launcher,
    jobs: Sequence[Job],
    commands: Sequence[Sequence[str]],
    known: Sequence[Job],
    complete: Collection[int],
    folder: Path,
) -> list[JobReturn]:
    """Launch the jobs, and announce each before it starts.

    Args:
        launcher: Hydra's own launcher, which runs a job before it returns.
        commands: the overrides of each job.
        known: all jobs that the sweeper has requested so far.
        complete: numbers of the jobs that were already complete.
        folder: the sweep's folder.

    Raises:
        Interrupted: a signal requested the end, in a job or between two jobs.
    """
    done: list[JobReturn] = []
    differing = varying([job.overrides for job in known])
    with stops_early(folder):
        for job, command in zip(jobs, commands, strict=True):
            name = f"{head(job, len(known))} {label(job, differing)}".rstrip()
            say(f"{name}: complete, skipped" if job.number in complete else name)
            done += launcher.launch([command], job.number)
    return done
