"""The layer between Hydra's sweeper and its launcher: every job is checked before any job starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, filter_overrides, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from s15erav3.cli.overrides import key_of
from s15erav3.cli.settings import read_interpolated
from s15erav3.errors import UserError
from s15erav3.runs.reader import read_run
from s15erav3.sweeps import elsewhere
from s15erav3.sweeps.in_order import one_by_one
from s15erav3.sweeps.noise import BASIC, add_noise_runs, basic_sweeper
from s15erav3.sweeps.objective import PRUNED, check_objective, objective
from s15erav3.sweeps.planned import Planned, without_hydra
from s15erav3.sweeps.resume import Found, examine
from s15erav3.sweeps.slurm import Slurm
from s15erav3.terminal import say, short

MANY = 50
"""Number of jobs from which composing them takes seconds."""


class Sweep:
    """State of the sweep that this process runs.

    Args:
        started: called with the sweep's folder once its first jobs have passed their checks, before they start.
    """

    def __init__(self, started: Callable[[Path], None]) -> None:
        self.started = started
        self.folder: Path | None = None
        self.jobs: dict[int, Planned] = {}
        self.left: tuple[elsewhere.Queue, Mapping[int, str]] | None = None
        """The queue of a cluster, and the names of the jobs that are left there."""
        self._lock: FileLock | None = None

    def plan(
        self,
        config: DictConfig,
        context: HydraContext,
        commands: Sequence[Sequence[str]],
        first: int,
        queue: elsewhere.Queue | None = None,
    ) -> list[Planned]:
        """Check the jobs that are about to be launched.

        Args:
            queue: of a cluster, in which some of the jobs may be already.

        Raises:
            UserError: a job's folder holds a run with different settings, or another process runs this sweep.
        """
        self.folder = Path(str(config.hydra.sweep.dir)).absolute()
        if self._lock is None:
            lock = FileLock(self.folder / ".sweep" / "lock")
            Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise UserError(
                    f"another process is running the sweep {self.folder}; wait for it, or stop it."
                ) from error
            self._lock = lock
        if len(commands) > MANY:
            say(f"composing {len(commands):,} jobs")
        queued = elsewhere.queued(queue, self.folder) if queue else {}
        planned = list(plan(config, context, commands, first, queued))
        if not self.jobs:
            self.started(self.folder)
        self.jobs |= {job.number: job for job in planned}
        return planned

    def close(self) -> None:
        """Release the sweep's lock, so that other processes can run it."""
        if self._lock is not None:
            self._lock.release()


def plan(
    config: DictConfig,
    context: HydraContext,
    commands: Sequence[Sequence[str]],
    first: int,
    queued: Mapping[int, elsewhere.Entry] = MappingProxyType({}),
) -> Iterator[Planned]:
    """Compose each job as Hydra's launchers do, and inspect its folder.

    Args:
        queued: jobs in the queue of a cluster, by number; their folders change meanwhile.

    Raises:
        UserError: a folder holds a run with different settings, or the queue a job with different ones.
    """
    setup_globals()
    before = HydraConfig.instance().cfg
    try:
        for number, command in enumerate(commands, first):
            composed = context.config_loader.load_sweep_config(config, list(command))
            with open_dict(composed):
                composed.hydra.job.id = composed.hydra.job.num = number
            HydraConfig.instance().set_config(composed)  # required by ${hydra:...} interpolations
            folder = Path(str(composed.hydra.sweep.dir), str(composed.hydra.sweep.subdir)).absolute()
            read_interpolated(composed, "train")
            check_objective(composed.sweep.objective)
            overrides = list(filter_overrides(command))
            if (there := queued.get(number)) is None:
                found = examine(without_hydra(composed), folder)
            elif _of_the_job(there.overrides) == _of_the_job(overrides):
                found = Found("queued", "", {})
            else:
                raise UserError(
                    f"job {number} of {short(Path(composed.hydra.sweep.dir))} is in the queue as {there.name} with "
                    f"other settings ({' '.join(there.overrides)}); cancel it, or choose another sweep.name."
                )
            yield Planned(number, overrides, composed, folder, found, list(command))
    finally:
        HydraConfig.instance().cfg = before


def _of_the_job(overrides: Sequence[str]) -> list[str]:
    """Leave out how the sweep is run, such as ``sweep.wait``: it is not part of what a job trains."""
    return [override for override in overrides if not key_of(override).startswith("sweep.")]


class Overseen(Launcher):
    """A launcher whose jobs are planned first."""

    def __init__(self, launcher: Launcher, sweep: Sweep) -> None:
        self.launcher, self.sweep = launcher, sweep

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Set up as Hydra requires, before :meth:`launch`."""
        self.context, self.config = hydra_context, config
        self.launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Plan the jobs, then launch them."""
        queue = Slurm(self.launcher) if type(self.launcher).__name__ == "SlurmLauncher" else None
        wait = self.config.sweep.wait
        if not wait and (queue is None or self.config.hydra.sweeper.get("_target_") != BASIC):
            raise UserError(
                "sweep.wait=false leaves jobs in a cluster's queue; use it with hydra/launcher=submitit_slurm, and "
                "without a hydra/sweeper, which waits for results."
            )
        jobs = self.sweep.plan(self.config, self.context, job_overrides, initial_job_idx, queue)
        if queue is not None:
            assert self.sweep.folder is not None
            try:
                left: Mapping[int, str] = elsewhere.launch(queue, jobs, self.sweep.folder, wait)
            except elsewhere.Left as stopped:
                self.sweep.left = queue, stopped.names
                raise
            self.sweep.left = (queue, left) if left else None
            return [returned(job) for job in jobs]
        take: Callable[[list[Planned]], Sequence[JobReturn]] | None = getattr(self.launcher, "launch_planned", None)
        if take:
            return take(jobs)
        try:
            if type(self.launcher).__name__ == "BasicLauncher":  # Hydra runs its module twice: two such classes
                assert self.sweep.folder is not None
                complete = {job.number for job in jobs if job.found.state == "done"}
                return one_by_one(
                    self.launcher, jobs, job_overrides, [*self.sweep.jobs.values()], complete, self.sweep.folder
                )
            return self.launcher.launch(job_overrides, initial_job_idx)
        except RuntimeError as error:  # from joblib or submitit, for a killed job: the summary covers each job
            say(f"error: {type(self.launcher).__name__}: {str(error).partition(chr(10))[0]}")
            return [returned(job) for job in jobs]


def returned(job: Planned) -> JobReturn:
    """Return what Hydra's sweepers receive for an ended job; never a failure, which would end an Optuna study."""
    run = read_run(job.folder)
    value: Any = None
    if run.status == "completed":
        try:
            value = objective(job.config.sweep.objective, run.result)
        except UserError:  # reported in the summary at the end
            value = None
    elif run.status == PRUNED:
        value = PRUNED
    return JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED, _return_value=value)


@contextmanager
def overseen(started: Callable[[Path], None]) -> Iterator[Sweep]:
    """Plan the jobs of the sweep that Hydra runs within the block.

    If no job passes its checks, ``multirun.yaml`` is restored, as sweepers write it first.
    """
    sweep, plugins = Sweep(started), Plugins.instance()
    records: dict[Path, bytes | None] = {}

    def instantiate_launcher(hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> Launcher:
        del plugins.instantiate_launcher  # restore the class's own: launchers pickle this object
        check_name(config.sweep.name)
        add_noise_runs(config)
        launcher = plugins.instantiate_launcher(hydra_context, task_function, config)
        record = Path(str(config.hydra.sweep.dir)).absolute() / "multirun.yaml"
        records[record] = record.read_bytes() if record.is_file() else None
        again = Overseen(launcher, sweep)
        again.context, again.config = hydra_context, config
        return again

    plugins.instantiate_launcher = instantiate_launcher  # type: ignore[method-assign]
    sweeper = basic_sweeper()
    validate, split = sweeper.validate_batch_is_legal, sweeper.split_arguments
    sweeper.validate_batch_is_legal = lambda *_: None  # it composes all jobs, and planning does so too
    try:
        yield sweep
    finally:
        plugins.__dict__.pop("instantiate_launcher", None)
        sweeper.split_arguments = staticmethod(split)
        sweeper.validate_batch_is_legal = validate
        sweep.close()
        if not sweep.jobs:
            for record, content in records.items():
                _put_back(record, content)


def check_name(name: object) -> None:
    """Check that a sweep's name does not lead outside ``multirun/``.

    Raises:
        UserError: it does; the message contains the name.
    """
    text = "" if name is None else str(name)
    if text and (Path(text).is_absolute() or {"..", "."} & set(text.split("/")) or not text.isprintable()):
        raise UserError(f"sweep.name={text!r} would leave multirun/; give a plain name, or hydra.sweep.dir=FOLDER.")


def _put_back(record: Path, content: bytes | None) -> None:
    if content is not None:
        record.write_bytes(content)
        return
    for file in (record, record.parent / ".sweep" / "lock"):
        file.unlink(missing_ok=True)
    for folder in (record.parent / ".sweep", record.parent):
        if folder.is_dir() and not os.listdir(folder):
            folder.rmdir()
