"""A job's interface to the search that it is a trial of: it reports validations and asks whether to prune."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from s15erav3.callbacks.pruning import Pruning
from s15erav3.errors import UserError

SWEEPER = "s15erav3.sweeps.optuna_plugin.OptunaStudy"
NO_PRUNER = "optuna.pruners.NopPruner"


class TrialJudge:
    """Optuna's pruner on the trial of one job.

    Every job writes its own lines into the study's file, so any launcher can have started it.

    Args:
        file, name: of the study.
        pruner: its settings, which Hydra instantiates.
        job: the number of the job.

    Raises:
        UserError: the study has no unfinished trial of that job.
    """

    def __init__(self, file: Path, name: str, pruner: DictConfig, job: int) -> None:
        import optuna  # slow (a second), and not needed by other jobs
        from hydra.utils import instantiate

        from s15erav3.sweeps.journal import JOB, id_of, open_journal

        self.storage = open_journal(file)
        self.pruner: optuna.pruners.BasePruner = instantiate(pruner)
        try:
            self.study = optuna.load_study(
                study_name=name, storage=self.storage, sampler=optuna.samplers.RandomSampler(), pruner=self.pruner
            )
        except KeyError as error:
            raise UserError(f"{file} holds no study {name}; was it replaced while the search runs?") from error
        running = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        mine = [trial.number for trial in running if trial.user_attrs.get(JOB) == job]
        if not mine:
            raise UserError(f"{file} has no unfinished trial of job {job}; was it replaced while the search runs?")
        self.trial = id_of(self.storage, name, mine[-1])

    def last_step(self) -> int | None:
        """Return the last step for which the trial has a value."""
        return self.storage.get_trial(self.trial).last_step

    def report(self, step: int, value: float) -> None:
        """Add a value to the trial."""
        self.storage.set_trial_intermediate_value(self.trial, step, value)

    def verdict(self) -> str:
        """Return the pruner's verdict as text."""
        trial = self.storage.get_trial(self.trial)
        if trial.last_step is None or not self.pruner.prune(self.study, trial):
            return ""
        value = trial.intermediate_values[trial.last_step]
        return f"{value:.4f} at step {trial.last_step:,} is too far behind other trials ({type(self.pruner).__name__})"


def pruning(cfg: DictConfig) -> list[Pruning]:
    """Return the callback of a job that belongs to a search with a pruner; no callback for any other job.

    Args:
        cfg: the job's config.
    """
    hydra = HydraConfig.get()
    settings: Any = hydra.sweeper
    if settings.get("_target_") != SWEEPER or not settings.get("pruner") or settings.pruner._target_ == NO_PRUNER:
        return []
    file = Path(settings.storage).absolute()
    return [Pruning(cfg.sweep.objective, TrialJudge(file, settings.study_name, settings.pruner, hydra.job.num))]
