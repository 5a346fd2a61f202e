"""Pruning: end a run early if its validations are hopeless compared with other runs."""

from __future__ import annotations

from typing import Any, Protocol

import lightning as L

from s15erav3.errors import UserError, nearest


class Pruned(Exception):
    """A run was pruned; its last checkpoint holds the step at which that was decided."""


class Judge(Protocol):
    """Compares a run with others."""

    def last_step(self) -> int | None:
        """Return the last step with a reported value, including reports of an earlier process of this run."""

    def report(self, step: int, value: float) -> None:
        """Report the value measured after ``step``."""

    def verdict(self) -> str:
        """Return why the run is hopeless, given the values reported so far; empty if it is not."""


class Pruning(L.Callback):
    """Report a metric at each validation, and end the run with :class:`Pruned` if it is judged hopeless.

    The value is reported before that step's checkpoint is saved, so that a run killed in between reports it again. The
    run ends after the checkpoint, before the next step: nothing happens within a step.

    Args:
        metric: a metric that a validation measures.
    """

    def __init__(self, metric: str, judge: Judge) -> None:
        self.metric, self.judge = metric, judge
        self._verdict = ""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        last = self.judge.last_step()
        if (
            last is not None and 0 < last <= trainer.global_step < trainer.max_steps
        ):  # an earlier process was killed before it acted on the verdict
            self._verdict = self.judge.verdict()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        metrics = trainer.callback_metrics
        if self.metric not in metrics:
            raise UserError(
                f"sweep.objective={self.metric} is not measured at validations, as hydra.sweeper.pruner requires: "
                f"{nearest(self.metric, metrics)}"
            )
        self.judge.report(trainer.global_step, float(metrics[self.metric]))
        if trainer.global_step < trainer.max_steps and not trainer.should_stop:
            self._verdict = self.judge.verdict()

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if self._verdict:
            raise Pruned(f"{self.metric} {self._verdict}")
