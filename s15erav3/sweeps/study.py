"""An Optuna study in a sweep's folder that can be gone on with; imported only where Optuna is installed."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.utils import JobReturn, JobStatus
from hydra.utils import instantiate
from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl
from omegaconf import OmegaConf
from optuna.trial import TrialState

from s15erav3.cli.trust import check_arguments
from s15erav3.errors import UserError
from s15erav3.runs.reader import read_run
from s15erav3.terminal import say

JOB, SETTINGS, ATTEMPT = "job", "settings", "attempt"
"""Attributes of a trial: the number of its run's folder, the command line of its run, how often it was begun."""

ATTEMPTS = 3
"""A run that takes the whole program down with it (out of memory) is begun so often and no more."""

NONE_COMPLETED = ("No trials are completed yet.", "Record does not exist.")
"""What Optuna says, in memory and in a file, when it is asked for the best of trials that all failed."""


class Study(OptunaSweeperImpl):  # type: ignore[misc]
    """The sweeper of Hydra's plugin, which begins at run 0 with ``n_trials`` new trials whatever was there before.

    Here ``n_trials`` is the whole study's. Trials that a call left unfinished run first, in their own folders, where
    their runs go on; new ones are numbered after the last folder. Failed runs are trials without a value.

    Raises:
        UserError: the settings do not describe a search, or not the one in the folder.
    """

    def __init__(self, *, sampler: Any, search_space: Any, **settings: Any) -> None:
        if search_space is not None:
            raise UserError("hydra.sweeper.search_space is Hydra's old name; name what is searched in its params.")
        optuna.logging.set_verbosity(logging.WARNING)
        # It would tell of each failed job, which was told already, that "None is not float-castable".
        logging.getLogger(OptunaSweeperImpl.__module__).setLevel(logging.CRITICAL)
        super().__init__(sampler=instantiate(sampler), search_space=None, **settings)

    def sweep(self, arguments: list[str]) -> None:
        """Run what the study still lacks, and leave ``optimization_results.yaml`` in the sweep's folder."""
        assert self.config is not None
        objective = OmegaConf.select(self.config, "sweep.objective")
        metrics = [objective] if isinstance(objective, str | None) else list(objective)
        if len(metrics) != len(self._get_directions()):
            raise UserError(
                f"sweep.objective={objective} is {len(metrics)} of metrics, but hydra.sweeper.direction="
                f"{', '.join(self._get_directions())} has {len(self._get_directions())}; give one direction for each."
            )
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        if self.storage:
            self._go_on()
        numbers = [int(place.name) for place in folder.iterdir() if place.name.isdecimal()]
        self.job_idx = max(numbers, default=-1) + 1
        try:
            super().sweep(arguments)
        except ValueError as error:  # each of the failed runs was told
            if str(error) not in NONE_COMPLETED:
                raise
        if self.storage:
            self._tell_best()

    def setup(self, **parts: Any) -> None:
        """As the plugin's, but a value that is no number, which it would stumble over, makes a failed trial."""
        super().setup(**parts)
        launcher: Any = self.launcher
        launch, objectives = launcher.launch, len(self._get_directions())

        def checked(*runs: Any, **numbers: Any) -> Sequence[JobReturn]:
            returns: Sequence[JobReturn] = launch(*runs, **numbers)
            for run in returns:
                if run.status == JobStatus.COMPLETED:
                    values = as_values(run.return_value, objectives)
                    run.return_value = values[0] if values and objectives == 1 else values
            return returns

        launcher.launch = checked

    def _load(self) -> optuna.Study:
        directions = self._get_directions()
        try:
            return optuna.create_study(
                study_name=self.study_name, storage=self.storage, directions=directions, load_if_exists=True
            )
        except ValueError as error:
            raise UserError(
                f"hydra.sweeper.direction={', '.join(directions)} does not fit the study {self.storage}: {error}; "
                "correct it, or choose another sweep.name."
            ) from error

    def _trials(self, state: TrialState) -> list[optuna.trial.FrozenTrial]:
        return self._load().get_trials(states=(state,)) if self.storage else []

    def _go_on(self) -> None:
        """Finish what an earlier call began, and count what is left to do."""
        assert self.launcher is not None
        study = self._load()
        if study.trials:
            self.sampler.reseed_rng()  # a fixed seed would propose the first trials again
        for trial in self._trials(TrialState.RUNNING):
            values, known = None, trial.user_attrs
            attempt = known.get(ATTEMPT, 1) + self._was_killed(known)
            if SETTINGS in known and attempt <= ATTEMPTS:
                check_arguments([str(s) for s in known[SETTINGS]], self.storage)
                study._storage.set_trial_user_attr(trial._trial_id, ATTEMPT, attempt)
                returns = self.launcher.launch([tuple(known[SETTINGS])], initial_job_idx=known[JOB])
                values = returns[0].return_value
            study.tell(trial.number, values, TrialState.FAIL if values is None else TrialState.COMPLETE)
        self.n_trials = max(0, self.n_trials - len(self._trials(TrialState.COMPLETE)))

    def _was_killed(self, known: dict[str, Any]) -> bool:
        """Whether a trial's run ended without a word: one that was stopped has saved, one that never began is new."""
        run = read_run(Path(str(self.config.hydra.sweep.dir)) / str(known.get(JOB)))  # type: ignore[union-attr]
        return bool(run.result) and "status" not in run.result

    def _tell_best(self) -> None:
        """The best run, or those of the front, with what was searched."""
        best = self._load().best_trials
        for trial in sorted(best, key=lambda trial: trial.values):
            found = ", ".join(f"{value:.4f}" for value in trial.values)
            settings = " ".join(f"{key}={value}" for key, value in trial.params.items())
            say(f"{'best' if len(trial.values) == 1 else 'front'}: run {trial.user_attrs[JOB]}  {found}  {settings}")

    def _configure_trials(self, trials: list[optuna.Trial], *given: Any) -> Sequence[Sequence[str]]:
        """The command line of each trial's run, which the study now remembers."""
        runs: Sequence[Sequence[str]] = super()._configure_trials(trials, *given)
        for place, (trial, settings) in enumerate(zip(trials, runs, strict=True)):
            trial.set_user_attr(JOB, self.job_idx + place)
            trial.set_user_attr(SETTINGS, list(settings))
        return runs


def as_values(returned: Any, objectives: int) -> list[float] | None:
    """What a run returned as one number per objective; ``None`` of a run that failed."""
    try:
        values = [float(v) for v in (returned if isinstance(returned, Sequence) else [returned])]
    except (TypeError, ValueError):
        return None
    return values if len(values) == objectives and all(map(math.isfinite, values)) else None
