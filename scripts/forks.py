"""Commands of s15erav3 in forks of one process: seconds of imports are spent once, and a fork may be killed."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from s15erav3.__main__ import VERBS
from s15erav3.__main__ import main as s15erav3

for verb in (*VERBS, "sweeps.multirun", "figures.heatmap"):
    importlib.import_module(f"s15erav3.{verb}")


class Ended(NamedTuple):
    """How a fork ended."""

    status: int
    """Its exit status, negative for a signal."""
    asked: bool
    """Whether it was sent a signal because its time was over."""
    hung: bool
    """Whether it then had to be killed."""


def fork(
    command: list[str], log: Path, *, wait: float, ask: int = signal.SIGTERM, patience: float = 30,
    prepare: Callable[[], None] | None = None,
) -> Ended:  # fmt: skip
    """Run ``s15erav3 COMMAND`` in a fork of this process.

    Args:
        log: what it says, appended.
        wait: seconds until it is sent the signal ``ask``.
        patience: seconds from then on until it counts as hung, and is killed.
        prepare: called in the fork, at its beginning.
    """
    child = os.fork()
    if not child:
        os.setsid()
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        status = 70
        sys.argv = ["__main__.py", *command]  # as by python -m s15erav3: other ranks are started so
        try:
            torch.set_num_threads(1)
            os.environ["OMP_NUM_THREADS"] = "1"  # so that the command keeps this number
            if prepare is not None:
                prepare()
            status = s15erav3(command)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    began, asked = time.monotonic(), False
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return Ended(os.waitstatus_to_exitcode(status), asked, False)
        spent = time.monotonic() - began
        if spent > wait + patience:
            os.killpg(child, signal.SIGKILL)
            return Ended(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), True, True)
        if spent > wait and not asked:
            os.kill(child, ask)
            asked = True
        time.sleep(0.005)
