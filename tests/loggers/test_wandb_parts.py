"""A checkpoint in parts goes to W&B whole."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from s15erav3.loggers.wandb import RunLogger


def test_parts_are_in_the_artifact_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the names that a checkpoint looks for beside it. Seen to fail without them."""
    files = ["best.ckpt", "best.parts/000004/00000.safetensors", "best.parts/000004/00001.safetensors"]
    for name in files:
        (tmp_path / "checkpoints" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "checkpoints" / name).write_text(name)
    sent: list[Any] = []
    run = SimpleNamespace(
        id="x", define_metric=lambda *_, **__: None, log_artifact=lambda artifact, aliases: sent.append(artifact)
    )
    monkeypatch.setattr(RunLogger, "experiment", run)
    logger = RunLogger(None, tmp_path, "p", x_axis="tokens", log_model="best", finish_timeout=1)
    logger._send_large({}, completed=True)
    (model,) = sent
    assert sorted(model.manifest.entries) == files
