"""A model and a run small enough for tests, as command-line settings."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from s15erav3.__main__ import main

MODEL = [
    "model.hidden_size=32",
    "model.num_layers=3",
    "model.num_heads=2",
    "model.kv_lora_rank=16",
    "model.qk_nope_head_dim=8",
    "model.qk_rope_head_dim=8",
    "model.v_head_dim=16",
    "model.intermediate_size=192",
]
DATA = ["data.vocab_size=512", "data.sequence_length=32", "data.batch_size=4", "data.eval_batch_size=64"]
RUN = [
    "trainer.accelerator=cpu",
    "trainer.val_check_interval=4",
    "callbacks.telemetry.every_n_steps=2",
    "callbacks.checkpoint.every_n_steps=3",
    "callbacks.samples.max_new_tokens=3",
    "report=false",
]
TINY = [*MODEL, *DATA, *RUN]


def train(*settings: str, run_dir: Path | None = None) -> int:
    """``s15erav3 train`` with the tiny model; returns the exit status."""
    place = [f"hydra.run.dir='{run_dir}'"] if run_dir else []
    return main(["train", *TINY, *place, *settings])


def few(cases: Iterable[Any], *fast: Any) -> list[Any]:
    """Parameters of a test of which all but the ``fast`` ones are left to the slow tests."""
    return [pytest.param(case, marks=[] if case in fast else pytest.mark.slow) for case in cases]


def result(run_dir: Path) -> dict[str, Any]:
    """The run's result.json."""
    return json.loads((run_dir / "result.json").read_text())


def rows(file: Path) -> list[dict[str, Any]]:
    """Lines of a .jsonl file."""
    return [json.loads(line) for line in file.read_text().splitlines()]
