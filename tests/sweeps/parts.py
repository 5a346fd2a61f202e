"""Sweeps of tiny runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from s15erav3.__main__ import main
from tests.tiny import TINY, rows

QUICK = ["callbacks.samples.max_new_tokens=0", "callbacks.progress=null", "data.eval_batch_size=256"]


def accidents(tmp_path: Path, plan: dict[str, Any], key: str) -> list[str]:
    """Settings by which jobs meet with the accidents of ``plan``, told by the setting ``key``."""
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(plan))
    return [
        "+callbacks.accident._target_=tests.sweeps.accident.Accident",
        f"+callbacks.accident.plan={file}",
        f"+callbacks.accident.key=${{{key}}}",
    ]


def record(tmp_path: Path) -> list[Any]:
    """``[begin or end, key, step, time, process, CUDA_VISIBLE_DEVICES, OMP_NUM_THREADS]`` of all jobs that trained."""
    file = tmp_path / "plan.record"
    return rows(file) if file.exists() else []


def sweep(folder: Path, *settings: str) -> int:
    """``s15erav3 train -m`` with the tiny model; returns the exit status."""
    return main(["train", "-m", *TINY, *QUICK, f"hydra.sweep.dir='{folder}'", *settings])


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder."""
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
