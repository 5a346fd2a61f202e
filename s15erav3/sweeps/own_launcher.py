"""What this project's own launchers share: they plan all jobs of a sweep, and run those that are not complete."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from s15erav3.sweeps.live_table import Board
from s15erav3.sweeps.plan import plan, returned
from s15erav3.sweeps.planned import Planned


class OwnLauncher(Launcher):
    """Base class of launchers that plan all jobs of a sweep before the first one starts. Override :meth:`run`."""

    board: Board

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Set up as Hydra requires, before :meth:`launch`."""
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Launch as Hydra requires; see :meth:`launch_planned`."""
        return self.launch_planned(list(plan(self.config, self.context, job_overrides, initial_job_idx)))

    def launch_planned(self, jobs: list[Planned]) -> list[JobReturn]:
        """Run those jobs that are not complete yet; sweepers may call this several times.

        Returns:
            the objective of each job, ``None`` for a failed one.

        Raises:
            UserError: no job can run.
            Interrupted: a signal requested the end; the jobs have saved.
        """
        self.board.add(jobs)
        todo = [job for job in jobs if job.found.state != "done"]
        if todo:
            self.run(todo)
        return [returned(job) for job in jobs]

    @abstractmethod
    def run(self, jobs: list[Planned]) -> None:
        """Run jobs to their ends.

        Raises:
            UserError, Interrupted: as :meth:`launch_planned`.
        """
