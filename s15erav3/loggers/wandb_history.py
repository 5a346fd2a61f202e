"""The steps that W&B already has of a run, from its own files, so that a resumed run does not log them again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

STEP = "trainer/global_step"
AFTERWARDS = {"samples.path", "ablation/experts.path"}
"""Tables that come in rows of their own, after the training."""


def steps_known(folder: Path, arrived: int | None) -> set[int]:
    """Return the optimizer steps whose rows W&B has.

    Args:
        folder: the run's folder, with W&B's files below ``wandb/``.
        arrived: number of rows that the server has; ``None`` for offline runs, whose files are sent unchanged.

    Returns:
        the steps; none where W&B's program cannot read its files, and then rows may be logged twice.
    """
    found: set[int] = set()
    for file in sorted(folder.glob("wandb/*run-*/run-*.wandb")):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        try:
            read = subprocess.run(command, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.TimeoutExpired):
            continue
        for line in read.stdout.splitlines():
            if b'"type":"history"' in line:
                row = json.loads(line)["history"]["item"]
                if STEP in row and not row.keys() & AFTERWARDS and (arrived is None or row["_step"] < arrived):
                    found.add(int(row[STEP]))
    return found
