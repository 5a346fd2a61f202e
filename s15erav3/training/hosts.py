"""What ranks agree on through their hosts, so that no device is synchronised: a group, and the time limit."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Timer


def group_of_hosts(trainer: L.Trainer, *, for_a_thread: bool = False) -> Any:
    """A process group whose collectives synchronise no device; called by all ranks. ``None``: the default group.

    Args:
        for_a_thread: its collectives may run beside those of the main thread, so it is never the default group.
    """
    if trainer.world_size == 1 or (dist.get_backend() == "gloo" and not for_a_thread):
        return None
    return dist.new_group(backend="gloo", timeout=getattr(trainer.strategy, "_timeout", None))


class TimeLimit(Timer):
    """Lightning's Timer with one time for all ranks: the longest of theirs.

    Lightning's asks the first rank in every step, by collectives of the devices.

    Args:
        seconds: training time after which training ends.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(timedelta(seconds=seconds))
        self.limit, self.spent = seconds, 0.0
        """Seconds of training so far, the same on all ranks: of the last step's end."""

    @property
    def state_key(self) -> str:
        """The key that checkpoints have always used."""
        return "Timer"

    @property
    def share(self) -> float:
        """Share of the time that is over."""
        return self.spent / self.limit

    def on_fit_start(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        self._hosts = group_of_hosts(trainer)
        super().on_fit_start(trainer, *args, **kwargs)

    def _check_time_remaining(self, trainer: L.Trainer) -> None:
        elapsed = torch.tensor(self.time_elapsed(), dtype=torch.float64)
        if trainer.world_size > 1:
            dist.all_reduce(elapsed, dist.ReduceOp.MAX, group=self._hosts)
        self.spent = float(elapsed)
        trainer.should_stop = trainer.should_stop or self.spent >= self.limit
