"""W&B's own process can be killed, for want of memory say: training and its end must not notice."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from s15erav3.loggers import wandb as loggers
from s15erav3.loggers import wandb_server


def gone(*args: Any, **kwargs: Any) -> NoReturn:
    """What wandb 0.31 raises once ``wandb-core`` is dead."""
    raise ConnectionResetError("Connection lost")


def test_training_goes_on_when_wandbs_process_is_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said once, with the command for what is on disk; rows after it are dropped, and the end raises nothing. Seen to
    fail without the ``except`` of either."""
    settings = SimpleNamespace(_offline=True, sync_dir=str(tmp_path / "wandb" / "offline-run"))
    run = SimpleNamespace(id="x", define_metric=lambda *_, **__: None, log=gone, finish=gone, settings=settings)
    forgotten: list[bool] = []
    monkeypatch.setattr(wandb_server, "give_up", lambda: forgotten.append(True))
    monkeypatch.setattr(loggers.RunLogger, "experiment", run)
    logger = loggers.RunLogger(None, tmp_path, "p", x_axis="tokens", log_model="best", finish_timeout=1)
    for step in (1, 2, 3):
        logger.log_metrics({"train/loss": 1.0}, step)
    logger.conclude(0, {"val/bpb": 1.0})
    said = capsys.readouterr()
    told = said.out + said.err
    assert told.count("process has ended") == 1 and "training continues" in told
    assert "wandb sync" in told and forgotten == [True]
