"""Weights & Biases: offline unless the user is logged in, one run per job, resumed by its id."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger


def wandb_logger(
    save_dir: str,
    project: str,
    group: str | None = None,
    name: str | None = None,
    tags: list[str] | None = None,
    x_axis: str = "trainer/global_step",
    **settings: Any,
) -> WandbLogger:
    """A logger whose run continues when the run in ``save_dir`` is resumed.

    Args:
        save_dir: the run's folder; W&B writes below ``wandb/`` in it.
        project, group, name, tags: as in ``wandb.init``.
        x_axis: metric that all others are drawn over, ``trainer/global_step`` or ``tokens``.
        settings: further arguments of ``wandb.init``.
    """
    note = Path(save_dir) / "wandb" / "run-id.txt"
    run_id = note.read_text().strip() if note.exists() else secrets.token_hex(4)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(run_id + "\n")
    logger = WandbLogger(
        save_dir=save_dir,
        project=project,
        group=group,
        name=name,
        tags=tags,
        id=run_id,
        resume="allow",
        mode=_mode(),
        **settings,
    )
    logger.experiment.define_metric("tokens")
    logger.experiment.define_metric("*", step_metric=x_axis)
    return logger


def _mode() -> str:
    """``WANDB_MODE``, else online if an account is known to this machine and offline if none is.

    Given to ``wandb.init`` by name: asking for the account sets W&B up, and it no longer looks at the
    environment variable by which Lightning would tell it.
    """
    import wandb

    return os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")


def finish_wandb(exit_code: int) -> None:
    """Close the run of this process, if there is one: without it the next job of a multirun would write
    into this one."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=exit_code)
