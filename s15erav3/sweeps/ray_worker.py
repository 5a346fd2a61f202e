"""The task of one job on a Ray cluster: it runs in a process of its own, on any node."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from s15erav3.cli.hydra_setup import Job
from s15erav3.errors import one_line
from s15erav3.runs.reader import read_run
from s15erav3.sweeps.child import print_to, run_one
from s15erav3.sweeps.resume import FILE, is_others

SILENCE = 90.0
"""Seconds to wait until a process of this job that was lost with its node is silent or gone."""


def main(
    config: DictConfig, context: HydraContext, task: TaskFunction, here: Path, sweep: Path, folder: Path,
    environment: dict[str, str], gpus: float,
) -> tuple[int, str]:  # fmt: skip
    """Run one job, or what is left of it.

    Args:
        config: the composed config, including Hydra's part.
        here: the working directory of the sweep's process.
        sweep, folder: of the sweep and of the job.
        environment: variables of the sweep's process that override the node's.
        gpus: how many the job has; without any it must not see those of the node.

    Returns:
        the exit status of :func:`~s15erav3.sweeps.child.run_one`, and why the job failed.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # by which ray.cancel asks it to save and end
    os.environ.update(environment if gpus else {**environment, "CUDA_VISIBLE_DEVICES": ""})
    host = socket.gethostname()
    if lost := [str(place) for place in (here, sweep / FILE) if not place.exists()]:
        return 2, f"node {host} does not see {lost[0]}; all nodes must share this folder, at the same path"
    os.chdir(here)
    folder.mkdir(parents=True, exist_ok=True)
    print_to(folder / "train.log")
    await_silence(folder)
    status = run_one(config, context, task, host)
    if status > 128:
        return status, f"it was stopped by {signal.Signals(status - 128).name}"
    failures = task.failures if isinstance(task, Job) else []
    return status, one_line(failures[0]) if failures else ""


def await_silence(folder: Path, seconds: float = SILENCE) -> None:
    """Wait while an earlier process of this job may be alive: its node is lost to Ray, or it is about to end.

    No other sweep can run the job, as this one holds the sweep's lock.
    """
    end = time.monotonic() + seconds
    while (run := read_run(folder)).status == "running" and is_others(run.result) and time.monotonic() < end:
        time.sleep(0.5)
