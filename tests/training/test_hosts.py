"""What ranks agree on without their devices."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from s15erav3.callbacks.last_checkpoint import LastCheckpoint
from s15erav3.training.hosts import TimeLimit, group_of_hosts
from tests.training.together import in_ranks


def fake(world_size: int = 1) -> Any:
    loop = SimpleNamespace(_broadcast_sigterm_tensor=lambda: pytest.fail("a collective in every step"))
    return SimpleNamespace(
        world_size=world_size, should_stop=False, strategy=SimpleNamespace(), fit_loop=SimpleNamespace(epoch_loop=loop)
    )


def spent() -> tuple[float, bool]:
    limit, trainer, rank = TimeLimit(10), fake(2), dist.get_rank()
    limit.time_elapsed = lambda *_: (3.0, 11.0)[rank]  # type: ignore[method-assign]
    limit.on_fit_start(trainer)
    return limit.share, trainer.should_stop


def test_all_ranks_have_the_longest_time(tmp_path: Path) -> None:
    """On all ranks: otherwise they would take other learning rates, or one would wait for a step that never comes."""
    assert in_ranks(2, spent, tmp_path) == [(1.1, True), (1.1, True)]


def test_one_process_asks_nobody_and_keeps_its_time_in_a_checkpoint() -> None:
    """By the key of Lightning's Timer, under which older checkpoints have it."""
    limit, trainer = TimeLimit(10), fake()
    assert group_of_hosts(trainer) is None and limit.state_key == Timer({"seconds": 10}).state_key
    limit.load_state_dict({"time_elapsed": {"train": 4.0}})
    limit.on_fit_start(trainer)
    assert limit.share == 0.4 and not trainer.should_stop
    limit.load_state_dict({"time_elapsed": {"train": 10.0}})
    limit.on_train_batch_end(trainer)
    assert limit.share == 1 and trainer.should_stop


def test_lightning_does_not_ask_for_signals_in_every_step(tmp_path: Path) -> None:
    """It would wait for the device to read the answer. Catches a method that Lightning has renamed, too."""
    assert hasattr(_TrainingEpochLoop, "_broadcast_sigterm_tensor")
    trainer = fake()
    last = LastCheckpoint(tmp_path / "last.ckpt", 10)
    last.on_train_start(trainer, SimpleNamespace())
    try:
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor()
    finally:
        last.on_train_end(trainer, SimpleNamespace())
