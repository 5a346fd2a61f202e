"""The end of a run that is hopeless beside others, by its validations."""

from __future__ import annotations

from typing import Any, Protocol

import lightning as L

from s15erav3.errors import UserError, nearest


class Pruned(Exception):
    """A run was ended early on purpose; its last checkpoint holds the step that it was judged at."""


class Judge(Protocol):
    """Who compares a run with others."""

    def last_step(self) -> int | None:
        """The last step of which the judge was told, also by an earlier process of this run."""

    def report(self, step: int, value: float) -> None:
        """Tell the value measured after ``step``."""

    def verdict(self) -> str:
        """Why the run is hopeless, by what was told so far; empty as long as it is not."""


class Pruning(L.Callback):
    """Report a metric at each validation, and end the run with :class:`Pruned` if it is judged hopeless.

    It is told before the checkpoint of that step is saved, so that a run that is killed in between tells it again, and
    acts after it, before the next step: in a step itself nothing is done.

    Args:
        metric: one that a validation measures.
    """

    def __init__(self, metric: str, judge: Judge) -> None:
        self.metric, self.judge = metric, judge
        self._verdict = ""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        last = self.judge.last_step()
        if (
            last is not None and 0 < last <= trainer.global_step < trainer.max_steps
        ):  # judged, and killed before it ended
            self._verdict = self.judge.verdict()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        metrics = trainer.callback_metrics
        if self.metric not in metrics:
            raise UserError(
                f"sweep.objective={self.metric} is not measured at validations, and hydra.sweeper.pruner judges by it: "
                f"{nearest(self.metric, metrics)}"
            )
        self.judge.report(trainer.global_step, float(metrics[self.metric]))
        if trainer.global_step < trainer.max_steps and not trainer.should_stop:
            self._verdict = self.judge.verdict()

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if self._verdict:
            raise Pruned(f"{self.metric} {self._verdict}")
