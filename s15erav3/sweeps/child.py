"""The process of one job: it has its own session, environment and log, and ends when the sweep's process is gone."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from hydra.core.utils import JobRuntime, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from hydra.version import setbase
from omegaconf import DictConfig

from s15erav3.callbacks.last_checkpoint import Interrupted
from s15erav3.cli.hydra_setup import Job, typed
from s15erav3.errors import UserError
from s15erav3.runs.code import code
from s15erav3.session import run  # noqa: F401  slow to import: preloaded here, so that new processes have it already
from s15erav3.sweeps.slots import Slot

code()  # of the modules just imported: the files may be edited while the sweep runs


def main(
    config: DictConfig, context: HydraContext, task: TaskFunction, slot: Slot, environment: dict[str, str],
    log: Path, sweep: Connection,
) -> None:  # fmt: skip
    """Run one job as Hydra's launchers do, and exit with its status.

    Args:
        config: the composed config, including Hydra's part.
        environment: of the sweep's process; the slot's variables override it.
        log: the file to which the job's output is appended.
        sweep: closed when the sweep's process is gone, however it ended; the job then saves and ends.
    """
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # the fork server blocks it
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background processes ignore it
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C on the terminal goes to the sweep, which forwards it
    threading.Thread(target=_end_with, args=(sweep,), daemon=True).start()
    print_to(log)
    os.environ.clear()
    os.environ.update(environment | slot.environment)
    torch.set_num_threads(slot.threads)
    sys.exit(run_one(config, context, task, slot.name))


def run_one(config: DictConfig, context: HydraContext, task: TaskFunction, place: str) -> int:
    """Run one job in this process, which has run no other.

    Args:
        place: where the job runs, for its log.

    Returns:
        the exit status: 0, 1, 2 for the user's mistake, or 128 + n after signal n, when the job has saved.
    """
    job = config.hydra.job
    print(
        f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} job {job.num} at {place}: {' '.join(job_line(config))}", flush=True
    )
    setbase("1.3")
    setup_globals()
    JobRuntime.instance().set("name", job.name)
    try:
        run_job(
            task_function=task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
            hydra_context=context,
        )
    except Interrupted as error:
        return error.exit_status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    failures = task.failures if isinstance(task, Job) else []
    return 0 if not failures else 2 if isinstance(failures[0], UserError) else 1


def job_line(config: DictConfig) -> list[str]:
    """Return the job's own command line."""
    return typed(config.hydra)


def print_to(log: Path) -> None:
    """Append everything that this process and its libraries print to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    os.close(file)


def _end_with(sweep: Connection) -> None:
    try:
        sweep.recv()
    except EOFError:
        os.kill(os.getpid(), signal.SIGTERM)
