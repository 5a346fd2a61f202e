"""``hydra/sweeper=optuna``: Optuna chooses each run's settings, in a study that the same command resumes."""

from __future__ import annotations

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from s15erav3.errors import UserError


class OptunaStudy(Sweeper):
    """The plugin that Hydra finds; Optuna takes a second to import, so it is imported by the first search only.

    Raises:
        UserError: the extra that brings Optuna is not installed.
    """

    def __init__(self, **settings: Any) -> None:
        try:
            from s15erav3.sweeps.study import Study
        except ImportError as error:  # an older Optuna lacks some names
            if not (error.name or "").startswith("optuna"):
                raise
            raise UserError(
                f"hydra/sweeper=optuna needs Optuna 5, which is not there ({error}); pip install 's15erav3[optuna]'."
            ) from error
        self.study = Study(**settings)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Set up as Hydra requires, before :meth:`sweep`."""
        self.study.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> None:
        """Run the remaining trials of the study."""
        self.study.sweep(arguments)
