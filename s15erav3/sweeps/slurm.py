"""``hydra/launcher=submitit_slurm``: jobs are submitted with submitit and followed with squeue.

submitit follows its jobs with sacct: where Slurm keeps no accounts, it warns at every call and waits forever for a job
that was killed.
"""

from __future__ import annotations

import getpass
import shutil
import subprocess
from collections.abc import Collection, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton

from s15erav3.errors import UserError, one_line
from s15erav3.sweeps.planned import Planned
from s15erav3.terminal import short

USUAL = {"None", "Resources", "Priority", "BeginTime", "JobArrayTaskLimit", "Cleaning", "Prolog", "NonZeroExitCode"}
"""Reasons of squeue for jobs that run or will start by themselves."""

ASKED = ("partition", "account", "qos", "constraint", "gres", "gpus_per_node", "cpus_per_task", "mem_gb", "timeout_min")
"""Settings for which Slurm may refuse a job."""


class Slurm:
    """Slurm's queue.

    Args:
        launcher: Hydra's submitit launcher, with the settings of ``sbatch``.

    Raises:
        UserError: Slurm's commands are missing.
    """

    title = "Slurm"

    def __init__(self, launcher: Any) -> None:
        self.launcher = launcher
        self._reasons: dict[str, str] = {}
        missing = [name for name in ("sbatch", "srun", "squeue") if shutil.which(name) is None]
        if missing:
            raise UserError(
                f"hydra/launcher=submitit_slurm needs the commands of Slurm, and {', '.join(missing)} cannot be found; "
                "start the sweep on a login node, or use hydra/launcher=gpu_queue on this machine."
            )

    def submit(self, jobs: Sequence[Planned]) -> dict[int, str]:
        """Submit jobs as one array, as Hydra's launcher does; return the name in the queue for each number.

        Raises:
            UserError: Slurm refuses them.
        """
        import submitit  # slow import
        from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
        from submitit.core.utils import FailedJobError

        settings = dict(self.launcher.params)
        folder, limit = settings.pop("submitit_folder"), settings.pop("max_num_timeout")
        executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=limit)
        shared = BaseQueueConf.__dataclass_fields__
        executor.update_parameters(**{k if k in shared else f"slurm_{k}": v for k, v in settings.items()})
        numbers, state = [job.number for job in jobs], Singleton.get_state()
        try:
            with redirect_stderr(StringIO()):  # where submitit repeats what sbatch says
                submitted = executor.map_array(
                    self.launcher,
                    [list(job.command) for job in jobs],
                    ["hydra.sweep.dir"] * len(jobs),
                    numbers,
                    [f"job_id_for_{number}" for number in numbers],
                    [state] * len(jobs),
                )
        except FailedJobError as error:
            said = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in str(error).splitlines()]
            asked = " ".join(f"{key}={settings[key]}" for key in ASKED if settings.get(key) is not None)
            raise UserError(
                f"Slurm refuses the sweep ({one_line('; '.join(said))}); hydra.launcher has {asked}; set what the "
                "cluster offers (sinfo lists it)."
            ) from error
        return {number: str(job.job_id) for number, job in zip(numbers, submitted, strict=True)}

    def listed(self) -> set[str] | None:
        """Return the user's jobs that wait or run, ``ID`` or ``ARRAY_INDEX``; ``None`` if Slurm does not answer."""
        command = ["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i %r"]
        found = subprocess.run(command, capture_output=True, text=True)
        self._reasons = dict(line.split(maxsplit=1) for line in found.stdout.splitlines())
        return None if found.returncode else set(self._reasons)

    def held(self, names: Collection[str]) -> str:
        """Return why jobs that :meth:`listed` found do not start, unless they just wait for their turn."""
        reasons = {reason for name, reason in self._reasons.items() if name in names} - USUAL
        return ", ".join(sorted(reasons))

    def log(self, name: str, sweep: Path) -> str:
        """Return a clause that says where the output of a job is."""
        folder = sweep / ".submitit" / name
        if logs := sorted(folder.glob("*_log.out")):
            return f"; see {short(logs[0])}"
        return f", and its node wrote nothing into {short(folder)}: all nodes must share this folder"

    def cancel(self, names: Sequence[str]) -> str:
        """Return the command that ends jobs."""
        return "scancel " + " ".join(dict.fromkeys(name.partition("_")[0] for name in names))
