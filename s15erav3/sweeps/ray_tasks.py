"""The tasks of a sweep on a Ray cluster, from their submission until all have ended; what is lost is started again."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

from s15erav3.callbacks.last_checkpoint import Interrupted
from s15erav3.errors import UserError, one_line
from s15erav3.runs.reader import read_run
from s15erav3.sweeps import ray_cluster, ray_worker
from s15erav3.sweeps.live_table import Board
from s15erav3.sweeps.planned import Planned, leave_word
from s15erav3.sweeps.signals import Signals
from s15erav3.sweeps.slots import Slot
from s15erav3.terminal import say

PASSED = ("S15ERAV3_", "WANDB_", "MLFLOW_", "TRACKIO_", "HF_", "TIKTOKEN_")
"""Beginnings of the environment variables that jobs get from the sweep's process; all others are those of the node."""
LOOK = 1.0
"""Seconds between two looks at the nodes and at jobs that wait."""
LOST = {
    "NodeDiedError": "its node was lost",
    "LocalRayletDiedError": "its node was lost",
    "OutOfMemoryError": "its node ran out of memory",
    "WorkerCrashedError": "its process was killed",
}
"""Ray's errors of a job that can go on from its checkpoint."""


class Try(NamedTuple):
    """A task of a job."""

    job: Planned
    number: int
    """Times that the job was started before."""
    writer: tuple[Any, Any]
    """Host and process that wrote the run's progress before."""


class Tasks:
    """The tasks of one call of the launcher, while it is connected to the cluster.

    Args:
        settings: the launcher, with its settings.

    Raises:
        UserError: Ray does not know an option.
    """

    def __init__(self, settings: Any, board: Board) -> None:
        ray = ray_cluster.package()
        self.ray, self.settings, self.board = ray, settings, board
        auto = settings.num_gpus == "auto"
        self.gpus = float(any(node.get("GPU") for node in ray_cluster.nodes())) if auto else settings.num_gpus
        self.need = ray_cluster.needs(settings.num_cpus, self.gpus, settings.options)
        asked = {"num_cpus": settings.num_cpus, "num_gpus": self.gpus, "max_calls": 1, "max_retries": 0}
        try:
            self.remote = ray.remote(**{**settings.options, **asked})(ray_worker.main)
        except (TypeError, ValueError) as error:
            raise UserError(f"hydra.launcher.options={settings.options} cannot be used: {one_line(error)}.") from error
        self.waiting: dict[Any, Try] = {}
        self.running: dict[Any, Try] = {}
        self.looked, self.short_since, self.lacking = 0.0, 0.0, ""

    def run(self, jobs: list[Planned]) -> None:
        """Run jobs to their ends.

        Raises:
            UserError: no node has what a job asks for, and none has begun.
            Interrupted: a signal requested the end; the jobs have saved.
        """
        asked = 0
        with Signals() as signals, self.board:
            for job in jobs:
                self._submit(job, 0)
            while tasks := [*self.waiting, *self.running]:
                for task in self.ray.wait(tasks, timeout=0.25)[0]:
                    self._ended(task, stopped=bool(signals.received))
                if asked < (wanted := bool(signals.received) + signals.again):
                    asked = wanted
                    for task in [*self.waiting, *self.running]:
                        self.ray.cancel(task, force=signals.again)
                self._look()
        if signals.received:
            raise Interrupted(signals.received, Path(str(jobs[0].config.hydra.sweep.dir)))
        if self.lacking and not any(self.board.began(job) for job in jobs):
            raise UserError(self.lacking)
        if self.lacking:
            say(f"error: {self.lacking}")

    def _submit(self, job: Planned, number: int) -> None:
        passed = {name: value for name, value in os.environ.items() if name.startswith(PASSED)}
        folders = Path.cwd(), Path(str(job.config.hydra.sweep.dir)).absolute(), job.folder
        launcher = self.settings
        task = self.remote.remote(job.config, launcher.context, launcher.task, *folders, passed, self.gpus)
        self.waiting[task] = Try(job, number, writer(job.folder))

    def _look(self) -> None:
        """See which jobs have begun, and whether any node has room for those that have not."""
        if time.monotonic() - self.looked < LOOK:
            return
        self.looked = time.monotonic()
        for task in list(self.waiting):
            self._see(task)
        self.board.refresh()
        offered = ray_cluster.nodes()
        room = ray_cluster.places(self.need, offered)
        self.board.slots = [Slot("Ray", 1, {})] * max(1, room)
        if room or not self.waiting:
            self.short_since = 0.0
            return
        sentence = ray_cluster.shortage(self.need, offered)
        if not self.short_since:
            self.short_since = self.looked
            say(f"{sentence}; waiting {self.settings.node_timeout_s:g} s for one")
        if self.looked - self.short_since >= self.settings.node_timeout_s and not self.lacking:
            self.lacking = (
                f"{sentence}; lower hydra.launcher.num_cpus, num_gpus or options, or start a larger node "
                "and raise hydra.launcher.node_timeout_s."
            )
            for task in self.waiting:
                self.ray.cancel(task, force=True)

    def _see(self, task: Any) -> None:
        """See whether a job has begun since its task was submitted."""
        if (tried := self.waiting.get(task)) and writer(tried.job.folder) not in (tried.writer, NOBODY):
            self.running[task] = self.waiting.pop(task)
            self._begun(tried.job)

    def _begun(self, job: Planned) -> None:
        self.board.begun(job, Slot(str(writer(job.folder)[0] or "Ray"), 1, {}))

    def _ended(self, task: Any, stopped: bool) -> None:
        """Account for a task that has ended; start its job again if it was lost."""
        self._see(task)
        begun, over = task in self.running, stopped or bool(self.lacking)
        tried = (self.running if begun else self.waiting).pop(task)
        job, (status, why) = tried.job, self._outcome(task)
        if status > 128 and over and not begun:
            return  # it waited until the end
        if status > 128 and not over and tried.number < self.settings.max_retries:
            again = f"started again, {tried.number + 1} of {self.settings.max_retries}"
            say(f"{self.board.name(self.board.rows[job.number])}: {why}; {again}", words=True)
            self._submit(job, tried.number + 1)
            return
        if not begun:
            self._begun(job)
        why += f", {tried.number + 1} times" if tried.number else ""
        if status != 2 or read_run(job.folder).status != "running":  # refused, as another process runs it
            leave_word(job, why, "interrupted" if stopped else "failed", "UserError" if status == 2 else "Killed")
        self.board.ended(job)

    def _outcome(self, task: Any) -> tuple[int, str]:
        """Return the exit status of an ended task, 128 and more if its job can go on, and why it failed."""
        try:
            status, why = self.ray.get(task)
            return int(status), str(why)
        except self.ray.exceptions.TaskCancelledError:
            return 128 + signal.SIGINT, "it was cancelled"
        except self.ray.exceptions.RayError as error:
            if (name := type(error).__name__) in LOST:
                return 128 + signal.SIGKILL, LOST[name]
            cause = getattr(error, "cause", None) or error  # such as a node without this program
            return 1, f"it could not begin on its node: {type(cause).__name__}: {one_line(cause)}"


NOBODY = (None, None)


def writer(folder: Path) -> tuple[Any, Any]:
    """Return the host and the process that write a run's progress; :data:`NOBODY` before the first."""
    try:
        progress = json.loads((folder / "progress.json").read_text())
        return progress.get("host"), progress.get("pid")
    except (OSError, ValueError, AttributeError):
        return NOBODY
