"""Trials and their runs: recording a start, evaluating an outcome, finding those that an earlier call left."""

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
"""Maximum number of attempts for a run whose failure kills the whole program (out of memory)."""


class Unfinished(NamedTuple):
    """A trial whose run is to be resumed."""

    number: int
    job: int
    """Number of the run's folder."""
    settings: list[str]
    """Command line of the run."""


def begin(trial: optuna.Trial, job: int, settings: list[str]) -> None:
    """Record in the study which run belongs to a trial, before the run is launched."""
    trial.set_user_attr(JOB, job)
    trial.set_user_attr(SETTINGS, settings)


def outcome(returned: Any, objectives: int) -> tuple[TrialState, list[float] | None]:
    """Return the state and values that the study records for a run.

    Args:
        returned: the job's return value: its objective or objectives, ``pruned``, or ``None`` for a failed job.
        objectives: required number of values; fewer values, or any that is not finite, make the trial a failed one.
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
    """Return the unfinished trials of an earlier call, ordered by the numbers of their runs.

    Trials without a run, and those with too many attempts, are recorded as failed.

    Args:
        file: the study's file.
        folder: the sweep's folder.
        given: overrides of this call's command, which the user typed; anything else in the file must be harmless.

    Raises:
        UserError: the file holds a command that does more than choose settings, or none.
    """
    left, storage = [], open_journal(file)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        job, settings, attempt = (trial.user_attrs.get(key) for key in (JOB, SETTINGS, ATTEMPT))
        if settings is None:  # killed before its start
            study.tell(trial.number, state=TrialState.FAIL)
            continue
        attempt = 1 if attempt is None else attempt
        if not isinstance(job, int) or job < 0 or not isinstance(settings, list) or not isinstance(attempt, int):
            raise UserError(
                f"{file} is damaged: trial {trial.number} was not written by this program; choose another sweep.name."
            )
        check_arguments([str(word) for word in settings if word not in given], file)
        attempt += was_killed(folder / str(job))
        if attempt > ATTEMPTS:
            study.tell(trial.number, state=TrialState.FAIL)
            continue
        storage.set_trial_user_attr(id_of(storage, study.study_name, trial.number), ATTEMPT, attempt)
        left.append(Unfinished(trial.number, job, [str(word) for word in settings]))
    return sorted(left, key=lambda trial: trial.job)


def was_killed(run_dir: Path) -> bool:
    """Return whether a run was killed.

    A stopped run has saved, one that never started is new, and one that is still running will be refused.
    """
    run = read_run(run_dir)
    return run.status == "interrupted" and bool(run.result) and "status" not in run.result


def batches(trials: Sequence[Unfinished], most: int) -> Iterator[list[Unfinished]]:
    """Yield groups of at most ``most`` trials to launch together: launchers number runs consecutively."""
    batch: list[Unfinished] = []
    for trial in trials:
        if batch and (len(batch) == most or trial.job != batch[-1].job + 1):
            yield batch
            batch = []
        batch.append(trial)
    if batch:
        yield batch
