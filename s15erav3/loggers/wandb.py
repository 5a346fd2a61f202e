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
        offline=_offline(),
        **settings,
    )
    logger.experiment.define_metric("tokens")
    logger.experiment.define_metric("*", step_metric=x_axis)
    return logger


def _offline() -> bool:
    """``WANDB_MODE`` decides; without it, whether an account is known to this machine."""
    import wandb

    mode = os.environ.get("WANDB_MODE")
    return mode == "offline" if mode else not wandb.login(prompt=False)


def finish_wandb(exit_code: int) -> None:
    """Close the run of this process, if there is one: without it the next job of a multirun would write
    into this one."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=exit_code)
