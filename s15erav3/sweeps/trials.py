"""Trials and the runs that belong to them: how one begins, how it ended, which of an earlier call are left."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.trial import TrialState

from s15erav3.cli.trust import check_arguments
from s15erav3.errors import UserError
from s15erav3.runs.reader import read_run
from s15erav3.sweeps.journal import ATTEMPT, JOB, SETTINGS, id_of, open_journal
from s15erav3.sweeps.objective import PRUNED

ATTEMPTS = 3
"""A run that takes the whole program down with it (out of memory) is begun so often and no more."""


class Unfinished(NamedTuple):
    """A trial whose run is to go on."""

    number: int
    job: int
    """The number of its folder."""
    settings: list[str]
    """Its command line."""


def begin(trial: optuna.Trial, job: int, settings: list[str]) -> None:
    """Let the study remember which run belongs to a trial, before it is launched."""
    trial.set_user_attr(JOB, job)
    trial.set_user_attr(SETTINGS, settings)


def outcome(returned: Any, objectives: int) -> tuple[TrialState, list[float] | None]:
    """What a study is told of a run.

    Args:
        returned: by the job: its objective or objectives, ``pruned``, or ``None`` where it failed.
        objectives: how many numbers there must be; fewer, or some that are not finite, make a failed trial.
    """
    if returned == PRUNED and objectives == 1:
        return TrialState.PRUNED, None
    try:
        values = [float(v) for v in (returned if isinstance(returned, Sequence) else [returned])]
    except (TypeError, ValueError):
        return TrialState.FAIL, None
    if len(values) != objectives or not all(map(math.isfinite, values)):
        return TrialState.FAIL, None
    return TrialState.COMPLETE, values


def unfinished(study: optuna.Study, file: Path, folder: Path, given: Collection[str]) -> list[Unfinished]:
    """The trials of an earlier call that have not ended, by the numbers of their runs.

    Those that never had a run, and those begun too often, have failed.

    Args:
        file: of the study.
        folder: of the sweep.
        given: words of this call's command, which are the user's own; what else the file holds must be harmless.

    Raises:
        UserError: the file holds a command that does more than choose settings, or none.
    """
    left, storage = [], open_journal(file)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        job, settings, attempt = (trial.user_attrs.get(key) for key in (JOB, SETTINGS, ATTEMPT))
        if settings is None:  # killed before it was begun
            study.tell(trial.number, state=TrialState.FAIL)
            continue
        attempt = 1 if attempt is None else attempt
        if not isinstance(job, int) or job < 0 or not isinstance(settings, list) or not isinstance(attempt, int):
            raise UserError(f"{file} tells of trial {trial.number} what no search of this program writes.")
        check_arguments([str(word) for word in settings if word not in given], file)
        attempt += was_killed(folder / str(job))
        if attempt > ATTEMPTS:
            study.tell(trial.number, state=TrialState.FAIL)
            continue
        storage.set_trial_user_attr(id_of(storage, study.study_name, trial.number), ATTEMPT, attempt)
        left.append(Unfinished(trial.number, job, [str(word) for word in settings]))
    return sorted(left, key=lambda trial: trial.job)


def was_killed(run_dir: Path) -> bool:
    """Whether a run ended without a word: one that was stopped has saved, one that never began is new, and one that is
    still at work will be refused."""
    run = read_run(run_dir)
    return run.status == "interrupted" and bool(run.result) and "status" not in run.result


def batches(trials: Sequence[Unfinished], most: int) -> Iterator[list[Unfinished]]:
    """Trials to launch together, ``most`` of them: launchers number runs consecutively."""
    batch: list[Unfinished] = []
    for trial in trials:
        if batch and (len(batch) == most or trial.job != batch[-1].job + 1):
            yield batch
            batch = []
        batch.append(trial)
    if batch:
        yield batch
