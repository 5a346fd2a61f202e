"""``hydra/launcher=gpu_queue``: one process per job, as many in parallel as there are slots."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from s15erav3.callbacks.last_checkpoint import Interrupted
from s15erav3.runs.reader import read_run
from s15erav3.sweeps import child
from s15erav3.sweeps.job import make_room
from s15erav3.sweeps.live_table import Board
from s15erav3.sweeps.own_launcher import OwnLauncher
from s15erav3.sweeps.planned import Planned, leave_word
from s15erav3.sweeps.queue import drain
from s15erav3.sweeps.signals import Signals
from s15erav3.sweeps.slots import Slot, make_slots

KIND = "forkserver" if sys.platform == "linux" else "spawn"
"""Processes are forked from a server that has imported this program and used no GPU, which saves seconds per job."""


class GpuQueue(OwnLauncher):
    """Run each job in a fresh process, on a free GPU or a free share of the CPU.

    Args:
        gpus, jobs_per_gpu, cpu_slots, threads_per_job: see :func:`make_slots`.

    Raises:
        UserError: a setting is out of range.
    """

    def __init__(self, gpus: Any, jobs_per_gpu: Any, cpu_slots: Any, threads_per_job: Any) -> None:
        self.slots = make_slots(gpus, jobs_per_gpu, cpu_slots, threads_per_job)
        self.board = Board(self.slots)

    def run(self, jobs: list[Planned]) -> None:
        """Run jobs to their ends.

        Raises:
            Interrupted: a signal requested the end; the jobs have saved.
        """
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
            account(job, process, time.time() - self.board.began(job), stopped=bool(signals.received))
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


def account(job: Planned, process: Any, seconds: float, stopped: bool) -> None:
    """Write the result of a job whose process could not: it was killed, or ended before the run began.

    Args:
        process: the job's ended process.
        seconds: how long it ran.
        stopped: whether the sweep was asked to stop meanwhile.
    """
    run, code = read_run(job.folder), process.exitcode or 0
    if run.status == "running" and run.result.get("pid") != process.pid:
        return  # another process resumed this run meanwhile, and the job refused to start
    why = f"killed by {signal.Signals(-code).name}" if code < 0 else f"its process ended with status {code}"
    leave_word(job, why, "interrupted" if stopped else "failed", wall_seconds=seconds)
