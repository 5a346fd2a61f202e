"""Runs of several ranks on the CPU, as real processes, in which something happens to one of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.tiny import TINY

DDP = ["trainer=ddp", "trainer.accelerator=cpu", "callbacks.samples.max_new_tokens=0"]
HEAD = """
import os, signal, sys, time
RANK = int(os.environ.get("LOCAL_RANK", 0))
from s15erav3.training.module import LanguageModule
from s15erav3.callbacks.last_checkpoint import LastCheckpoint
from s15erav3.data.datamodule import CommentaryData
from s15erav3.data.windows import TrainingWindows

def at(step, what, owner=LanguageModule, name="training_step"):
    right = getattr(owner, name)
    def then(self, *args, **settings):
        trainer = getattr(self, "trainer", None) or args[0]
        if trainer.global_step == step:
            what(self)
        return right(self, *args, **settings)
    setattr(owner, name, then)

def hit(number):
    with open("hit", "w") as file:
        file.write(str(time.time()))
    os.kill(os.getpid(), number)
"""
TAIL = """
from s15erav3.__main__ import main
sys.exit(main())
"""


class Ended(NamedTuple):
    """How the program of the first rank ended."""

    status: int
    said: str
    """On the error stream, of all ranks."""
    seconds: float
    """From what the ranks do in ``hit`` (else from the start) until no rank was left."""


def start(folder: Path, body: str, *settings: str, ranks: int = 2) -> subprocess.Popen[str]:
    """``s15erav3 train`` of a tiny model in ``folder``/run by several ranks; each executes ``body`` first."""
    folder.mkdir(exist_ok=True)
    script = folder / "s15erav3"  # by which the first rank starts the others
    script.write_text(HEAD + body + TAIL)
    environment = os.environ | {"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    begins = [*TINY, *DDP, f"trainer.devices={ranks}", "hydra.run.dir=run"]
    resumes = any(setting.startswith("resume=") for setting in settings)
    command = [sys.executable, str(script), "train", *([] if resumes else begins), *settings]
    streams = {"stdout": subprocess.DEVNULL, "stderr": (folder / "said").open("w")}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, start_new_session=True, **streams)


def wait(process: subprocess.Popen[str], folder: Path, seconds: float = 150) -> Ended:
    """Wait until no process of the run is left."""
    began = time.time()
    try:
        status = process.wait(seconds)
        while alive(process.pid) and time.time() < began + seconds:
            time.sleep(0.1)
        assert not alive(process.pid)
    finally:
        if alive(process.pid):
            os.killpg(process.pid, 9)
            process.wait()
    hit = folder / "hit"
    return Ended(
        status, (folder / "said").read_text(), time.time() - (float(hit.read_text()) if hit.exists() else began)
    )


def alive(group: int) -> bool:
    """Whether a process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def run(folder: Path, body: str, *settings: str, ranks: int = 2) -> Ended:
    """:func:`start` and :func:`wait`."""
    return wait(start(folder, body, *settings, ranks=ranks), folder)


def sentences(said: str) -> list[str]:
    """What was said of the end: lines but the banner, the progress and the summary."""
    lines = [line for line in said.splitlines() if line.strip()]
    begins = [i for i, line in enumerate(lines) if line.startswith("folder ")]
    return [line for line in lines[begins[0] + 1 if begins else 0 :] if not line.startswith("step ")]


def result(folder: Path) -> dict[str, Any]:
    """The run's result.json."""
    return json.loads((folder / "run" / "result.json").read_text())
