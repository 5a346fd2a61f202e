"""Sweeps as commands in processes of their own, and what their jobs have done."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from s15erav3.runs.records import read_lines
from tests.sweeps.parts import QUICK, record
from tests.tiny import TINY


def steps(run: Path) -> list[int]:
    """The logged steps of a run."""
    return [row["step"] for row in read_lines(run / "balance.jsonl").rows]


def stands(tmp_path: Path, key: str) -> bool:
    """Whether a job stands at its step."""
    return any(line[:2] == ["hold", key] for line in record(tmp_path))


@contextmanager
def command(folder: Path, *settings: str, resume: bool = False) -> Iterator[subprocess.Popen[str]]:
    """The command of a sweep in a process of its own."""
    what = [f"sweep.resume={folder}"] if resume else ["-m", *TINY, *QUICK, f"hydra.sweep.dir={folder}"]
    words = [sys.executable, "-m", "s15erav3", "train", *what, *settings]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str], status: int) -> str:
    """Wait for a command that must end with a status; return what it said."""
    said = process.communicate(timeout=400)[1]
    assert process.returncode == status, said
    return said
