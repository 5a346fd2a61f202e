"""The line that a user watches: step, loss, bpb, tokens per second, imbalance, time left."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from s15erav3.callbacks.telemetry import Telemetry


class Watch(ProgressBar):
    """A live bar on a terminal; elsewhere (a log file, CI) a plain line at each validation.

    It shows what :class:`Telemetry` last read, and so never waits for the device itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.console = Console(stderr=True)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._enabled = True
        self._validated: dict[str, float] = {}

    def disable(self) -> None:
        """Lightning asks this of every rank but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Draw again."""
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.console.is_terminal or not self._enabled:
            return
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._task = self._bar.add_task("", total=trainer.max_steps, completed=trainer.global_step, numbers="")
        self._bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=trainer.global_step, numbers=self._numbers(trainer))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._enabled or not trainer.global_step:
            return
        self._validated = {key: float(value) for key, value in trainer.callback_metrics.items()}
        line = f"step {trainer.global_step:>6}/{trainer.max_steps}  {self._numbers(trainer)}"
        target = self._bar.console if self._bar is not None else self.console
        target.print(line, highlight=False, soft_wrap=True)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._stop()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _numbers(self, trainer: L.Trainer) -> str:
        telemetry = next((c for c in trainer.callbacks if isinstance(c, Telemetry)), None)  # type: ignore[attr-defined]
        known = (telemetry.latest if telemetry else {}) | self._validated
        shown = (
            ("loss", "train/loss", "{:.3f}"),
            ("bpb", "train/bpb", "{:.3f}"),
            ("val bpb", "val/bpb", "{:.4f}"),
            ("MaxVio", "balance/maxvio_batch", "{:.2f}"),
            ("global", "balance/maxvio_global", "{:.2f}"),
            ("tokens/s", "perf/tokens_per_second", "{:,.0f}"),
        )
        return "  ".join(f"{name} {form.format(known[key])}" for name, key, form in shown if key in known)
