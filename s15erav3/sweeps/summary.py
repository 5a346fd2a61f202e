"""The summary at the end of a sweep: what is complete, what failed and why, what to type next."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from s15erav3.errors import UserError
from s15erav3.runs.reader import Run, read_run
from s15erav3.sweeps.label import varying
from s15erav3.sweeps.objective import PRUNED, objective
from s15erav3.sweeps.plan import Sweep
from s15erav3.sweeps.planned import Planned
from s15erav3.terminal import program, say, short


class Ended(NamedTuple):
    """How a job ended, read from its folder, as it may have run in any process."""

    job: Planned
    how: str
    """``done``, ``pruned``, ``skipped``, ``failed``, ``stopped`` or ``not begun``."""
    reason: str
    mistake: bool
    """Whether the failure is the user's to fix."""


def account(sweep: Sweep, failures: Sequence[Exception]) -> int:
    """Print the summary of a sweep.

    Args:
        failures: exceptions of jobs in this process; one that left no trace in a folder is counted too.

    Returns:
        0 if all jobs are complete or pruned, 2 if all failures are the user's to fix, else 1.
    """
    assert sweep.folder is not None
    ends = [ended(job) for job in sweep.jobs.values()]
    counts = Counter(end.how for end in ends)
    order = ("done", "pruned", "skipped", "failed", "stopped", "not begun")
    kinds = [f"{counts[how]} {how}" for how in order if counts[how]]
    place = shlex.quote(str(short(sweep.folder)))
    say(f"sweep {place}: {len(ends)} jobs, {', '.join(kinds)}")
    changing = varying([job.overrides for job in sweep.jobs.values()])
    bad = [end for end in ends if end.how in ("failed", "stopped")]
    for end in bad:
        log = end.job.folder / "train.log"
        where = f" (see {shlex.quote(str(short(log)))})" if log.exists() else ""
        sets = " ".join(o for o in end.job.overrides if o in changing)
        say(f"  job {end.job.number}{f' ({sets})' if sets else ''} {end.how}: {end.reason}{where}")
    older = [str(end.job.number) for end in ends if end.how == "skipped" and end.job.found.why]
    if older:
        say(f"  job {', '.join(older)}: kept, although trained by different code; add sweep.code=retrain to retrain")
    if bad or counts["not begun"]:
        say(f"  {program()} train sweep.resume={place}")
    say(f"  {program()} compare {place}")
    if not bad and not counts["not begun"] and not failures:
        return 0
    mended = all(end.mistake for end in bad) and all(isinstance(error, UserError) for error in failures)
    return 2 if mended and not counts["not begun"] else 1


def ended(job: Planned) -> Ended:
    """Return how ``job`` ended."""
    if not (job.folder / ".hydra" / "config.yaml").exists():
        return Ended(job, "not begun", "", False)
    run = read_run(job.folder)
    if job.found.state == "again" and run.result == job.found.result and run.result:
        return Ended(job, "not begun", "", False)  # the folder's content is from an earlier call
    if run.status == "completed":
        try:
            objective(job.config.sweep.objective, run.result)
        except UserError as error:
            return Ended(job, "failed", str(error), True)
        return Ended(job, "skipped" if job.found.state == "done" else "done", "", False)
    if run.status == PRUNED:
        return Ended(job, "skipped" if job.found.state == "done" else "pruned", "", False)
    if run.status in ("interrupted", "running"):
        return Ended(job, "stopped", run.reason or "it is still running", False)
    return Ended(job, "failed", run.reason, is_mistake(run))


def is_mistake(run: Run) -> bool:
    """Return whether a run's failure is the user's to fix."""
    return run.result.get("error") in ("UserError", "Diverged")
