"""A resumable Optuna study in a sweep's folder; imported only where Optuna is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from optuna.trial import TrialState

from s15erav3.cli.schema.check import check_made, check_part
from s15erav3.cli.schema.search import PRUNER, SAMPLER, Optuna
from s15erav3.errors import UserError
from s15erav3.sweeps.best import tell_best
from s15erav3.sweeps.journal import JOB, lock_of
from s15erav3.sweeps.judge import NO_PRUNER
from s15erav3.sweeps.search_space import Space, read_space
from s15erav3.sweeps.study_parts import check_pruner, make_sampler, open_study
from s15erav3.sweeps.trials import batches, begin, outcome, unfinished
from s15erav3.terminal import say

DONE = (TrialState.COMPLETE, TrialState.PRUNED)


class Study:
    """Ask Optuna for settings, run them with any launcher, and report the results to it.

    ``n_trials`` is the total of the study. Trials that an earlier call left unfinished run first: their runs are
    resumed in their own folders. New ones are numbered after the last folder. Failed runs are trials without a value.

    Args:
        sampler, pruner: settings that Hydra instantiates; without a pruner nothing is pruned.
        direction: ``minimize`` or ``maximize``, or a list of them.
        n_trials: number of trials that end with a value or are pruned.
        n_jobs: number of trials launched together.
        study_name, storage: name of the study, and its file.
        max_failure_rate: maximum fraction of failed runs in a batch; above it, no further batch starts.
        custom_search_space: dotted name of a function of the config and the trial, which may suggest more.
        params: the searched settings, as on the command line.

    Raises:
        UserError: the settings do not describe a search, or differ from the search in the folder.
    """

    def __init__(
        self, *, sampler: Any, pruner: Any = None, direction: Any, n_trials: Any, n_jobs: Any, study_name: Any,
        storage: Any, max_failure_rate: Any, custom_search_space: Any, params: Any,
    ) -> None:  # fmt: skip
        directions = direction if isinstance(direction, str | None) else list(direction)
        given = {"direction": directions, "n_trials": n_trials, "n_jobs": n_jobs, "max_failure_rate": max_failure_rate}
        check_part("hydra.sweeper", given, Optuna)
        check_made("hydra.sweeper.sampler", sampler, SAMPLER)
        check_made("hydra.sweeper.pruner", pruner, PRUNER)
        self.directions = [directions] if isinstance(directions, str) else directions or []
        if not isinstance(storage, str) or not storage or "://" in storage:
            raise UserError(f"hydra.sweeper.storage={storage} must be a file: a study is a journal of Optuna's.")
        self.n_trials, self.n_jobs, self.most_failures = n_trials, n_jobs, max_failure_rate
        self.name, self.file = str(study_name), Path(storage)
        self.sampler, self.pruner, self.params = sampler, pruner or {"_target_": NO_PRUNER}, params or {}
        self.exhausted = False
        self.extend = instantiate({"_target_": custom_search_space, "_partial_": True}) if custom_search_space else None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Set up as Hydra requires, before :meth:`sweep`."""
        self.config, self.context = config, hydra_context
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the remaining trials of the study, and write ``optimization_results.yaml`` to the sweep's folder."""
        searched = [f"{key}={value}" for key, value in self.params.items()]
        space = read_space([*searched, *arguments], self.context.config_loader)
        if not space.distributions and self.extend is None:
            raise UserError(
                "hydra/sweeper=optuna has nothing to search; give a setting choices or a range, such as "
                "'optimizer.lr=tag(log,interval(1e-3,1e-2))'."
            )
        pruner = check_pruner(self.pruner, OmegaConf.select(self.config, "sweep.objective"), self.directions)
        make_sampler(self.sampler, 0)
        folder, new = Path(self.config.hydra.sweep.dir), not self.file.exists()
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        study = open_study(self.file, self.name, self.directions, space, pruner)
        study.sampler = make_sampler(self.sampler, len(study.get_trials(deepcopy=False)))
        try:
            self._finish(study, space, folder)
            self._search(study, space, folder)
        except Exception:
            if new and not numbers(folder):  # refused before any run started
                for file in (self.file, lock_of(self.file)):
                    file.unlink(missing_ok=True)
            raise
        tell_best(study, folder)

    def _finish(self, study: optuna.Study, space: Space, folder: Path) -> None:
        """Complete the trials that an earlier call started."""
        left = unfinished(study, self.file, folder, space.fixed.values())
        for batch in batches(left, self.n_jobs):
            self._run(study, [trial.number for trial in batch], [trial.settings for trial in batch], batch[0].job)

    def _search(self, study: optuna.Study, space: Space, folder: Path) -> None:
        """Run new trials until there are enough."""
        left = self.n_trials - len(study.get_trials(deepcopy=False, states=DONE))
        known = [trial.user_attrs.get(JOB) for trial in study.get_trials(deepcopy=False)]
        job = max([-1, *numbers(folder), *(number for number in known if isinstance(number, int))]) + 1
        while left > 0 and not self.exhausted:
            study.sampler = make_sampler(self.sampler, len(study.get_trials(deepcopy=False)))
            asked = [study.ask(space.distributions) for _ in range(min(left, self.n_jobs))]
            commands = []
            for number, trial in enumerate(asked, job):
                if self.extend is not None:
                    self.extend(self.config, trial)
                if both := sorted(space.fixed.keys() & trial.params.keys()):
                    raise UserError(
                        f"hydra.sweeper.custom_search_space suggests {both[0]}, which is set on the command line; "
                        "leave it out there."
                    )
                commands.append(space.command(trial.params))
                begin(trial, number, commands[-1])
            states = self._run(study, [trial.number for trial in asked], commands, job)
            failed = states.count(TrialState.FAIL) / len(states)
            if failed > self.most_failures:
                say(
                    f"{failed:.0%} of the last {len(states)} runs failed, more than hydra.sweeper.max_failure_rate="
                    f"{self.most_failures}: the search ends."
                )
                return
            left -= len(asked)
            job += len(asked)

    def _run(
        self, study: optuna.Study, trials: Sequence[int], commands: Sequence[Sequence[str]], job: int
    ) -> list[TrialState]:
        """Launch runs with consecutive numbers, and report their results to the study."""
        returns = self.launcher.launch([tuple(command) for command in commands], initial_job_idx=job)
        states = []
        for trial, run in zip(trials, returns, strict=True):
            state, values = outcome(run.return_value, len(self.directions))
            try:
                study.tell(trial, values, state)
            except RuntimeError as error:  # no combinations left; the trial is already recorded
                if "Study.stop" not in str(error):
                    raise
                self.exhausted = True
            states.append(state)
        return states


def numbers(folder: Path) -> list[int]:
    """Return the numbers of the run folders in ``folder``."""
    return [int(place.name) for place in folder.iterdir() if place.name.isdecimal()]
