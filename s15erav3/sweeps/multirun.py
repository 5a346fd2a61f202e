"""``s15erav3 train -m``: run a sweep from its command to its summary, and resume it after an interruption."""

from __future__ import annotations

import shlex
from contextlib import chdir
from pathlib import Path

from hydra.core.plugins import Plugins

from s15erav3.callbacks.last_checkpoint import Interrupted
from s15erav3.cli import hydra_setup
from s15erav3.cli.flags import split
from s15erav3.cli.overrides import taken
from s15erav3.errors import UserError
from s15erav3.sweeps import elsewhere
from s15erav3.sweeps.job import work
from s15erav3.sweeps.launcher import GpuQueue
from s15erav3.sweeps.optuna_plugin import OptunaStudy
from s15erav3.sweeps.plan import overseen
from s15erav3.sweeps.ray_jobs import RayJobs
from s15erav3.sweeps.resume import Command, repeated, save_command
from s15erav3.sweeps.summary import account
from s15erav3.terminal import program, say, short


def main(arguments: list[str]) -> int:
    """Run the sweep, or the rest of it, and report how each job ended.

    Returns:
        the exit status: 0 if all jobs are complete or pruned (with ``sweep.wait=false``: submitted), 2 if all failures
        are the user's to fix, else 1; 128 + n after signal n.

    Raises:
        UserError: the command cannot be run; nothing has started.
    """
    line = split(arguments)
    wanted, words = taken("sweep.resume", line.words)
    rest = [*line.flags, *words]
    command = repeated(wanted, rest) if wanted else Command(rest, Path.cwd())
    if not split(command.arguments).multirun:
        raise UserError("sweep.resume=null resumes nothing; give the folder of a sweep.")
    for plugin in (GpuQueue, RayJobs, OptunaStudy):
        Plugins.instance().register(plugin)
    stopped: Interrupted | KeyboardInterrupt | None = None
    failures: list[Exception] = []
    with overseen(lambda folder: save_command(folder, command.arguments)) as sweep:
        try:
            with chdir(command.folder):
                failures = hydra_setup.call("train", work, command.arguments).failures
        except (Interrupted, KeyboardInterrupt) as signalled:
            stopped = signalled
    if sweep.folder is None or not sweep.jobs:  # --help, --cfg and the like, or stopped before the first job
        return 0 if stopped is None else 130
    if sweep.left is not None:
        elsewhere.tell(*sweep.left, sweep.folder)
        return 0 if stopped is None else 130
    status = account(sweep, failures)
    if stopped is None:
        return status
    go_on = f"{program()} train sweep.resume={shlex.quote(str(short(sweep.folder)))}"
    say(f"{str(stopped) or 'stopped by SIGINT'}; resume with: {go_on}")
    return stopped.exit_status if isinstance(stopped, Interrupted) else 130
