"""``hydra/launcher=gpu_queue``: one process per job, as many in parallel as there are slots."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from s15erav3.callbacks.last_checkpoint import Interrupted
from s15erav3.runs.folder import write_config
from s15erav3.runs.reader import read_run
from s15erav3.runs.result import provenance, write_result
from s15erav3.sweeps import child
from s15erav3.sweeps.job import make_room
from s15erav3.sweeps.live_table import Board
from s15erav3.sweeps.plan import plan, returned
from s15erav3.sweeps.planned import Planned
from s15erav3.sweeps.queue import drain
from s15erav3.sweeps.signals import Signals
from s15erav3.sweeps.slots import Slot, make_slots

KIND = "forkserver" if sys.platform == "linux" else "spawn"
"""Processes are forked from a server that has imported this program and used no GPU, which saves seconds per job."""


class GpuQueue(Launcher):
    """Run each job in a fresh process, on a free GPU or a free share of the CPU.

    Args:
        gpus, jobs_per_gpu, cpu_slots, threads_per_job: see :func:`make_slots`.

    Raises:
        UserError: a setting is out of range.
    """

    def __init__(self, gpus: Any, jobs_per_gpu: Any, cpu_slots: Any, threads_per_job: Any) -> None:
        self.slots = make_slots(gpus, jobs_per_gpu, cpu_slots, threads_per_job)
        self.board = Board(self.slots)

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
            Interrupted: a signal requested the end; the jobs have saved.
        """
        self.board.add(jobs)
        todo = [job for job in jobs if job.found.state != "done"]
        if todo:
            self._run(todo)
        return [returned(job) for job in jobs]

    def _run(self, jobs: list[Planned]) -> None:
        processes = multiprocessing.get_context(KIND)
        if KIND == "forkserver":
            start_server()
        theirs, ours = processes.Pipe(duplex=False)

        def start(job: Planned, slot: Slot) -> Any:
            make_room(job.found, job.folder, Path(str(job.config.hydra.sweep.dir)).absolute())
            job.folder.mkdir(parents=True, exist_ok=True)
            process = processes.Process(  # type: ignore[attr-defined]
                target=child.main,
                args=(job.config, self.context, self.task, slot, dict(os.environ), job.folder / "train.log", theirs),
                name=f"job {job.number}",
            )
            process.start()
            self.board.begun(job, slot)
            signals.pass_on(process)
            return process

        def ended(job: Planned, slot: Slot, process: Any) -> None:
            leave_word(job, process, time.time() - self.board.began(job), stopped=bool(signals.received))
            self.board.ended(job)
            signals.forget(process)

        def tick() -> bool:
            self.board.refresh()
            return not signals.received

        with ours, theirs, Signals() as signals, self.board:
            drain(jobs, self.slots, start, ended, tick)
        if signals.received:
            raise Interrupted(signals.received, Path(str(self.config.hydra.sweep.dir)))


def start_server() -> None:
    """Start the server that jobs are forked from, with SIGTERM blocked: the launcher forwards group signals itself."""
    multiprocessing.set_forkserver_preload(["s15erav3.sweeps.preload"])
    multiprocessing.resource_tracker.ensure_running()  # otherwise the server starts it, which unblocks the signal
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def leave_word(job: Planned, process: Any, seconds: float, stopped: bool) -> None:
    """Write the result of a job whose process could not: it was killed, or ended before the run began.

    Args:
        process: the job's ended process.
        seconds: how long it ran.
        stopped: whether the sweep was asked to stop meanwhile.
    """
    run, code = read_run(job.folder), process.exitcode or 0
    old = job.found.result if job.found.state == "resume" else {}
    if (job.folder / "result.json").exists() and run.result != old:
        return
    if run.status == "running" and run.result.get("pid") != process.pid:
        return  # another process resumed this run meanwhile, and the job refused to start
    if not (job.folder / ".hydra" / "config.yaml").exists():
        write_config(job.folder, job.settings, OmegaConf.masked_copy(job.config, "hydra"))
    why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"its process ended with status {code}"
    outcome = {"status": "interrupted" if stopped else "failed", "reason": why, "error": "Killed"}
    figures = {key: value for key, value in run.result.items() if "/" in key or key in ("steps", "max_steps")}
    steps = {"steps": run.result.get("step", run.result.get("steps", 0))}
    write_result(job.folder, outcome | {"wall_seconds": seconds} | provenance() | figures | steps)
